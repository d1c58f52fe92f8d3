"""At which updates of a run something is measured that would cost too much at every one."""

from __future__ import annotations

from collections.abc import Callable

QUARTERS = 4

IsDue = Callable[[int], bool]
"""Whether to measure at an update, counted from 1."""


def moments(updates: int | None) -> IsDue:
    """The first and the last of so many updates, and those at the quarters; of a stream 1, 10, 100 and so on."""
    if updates is None:
        return lambda step: step == 10 ** (len(str(step)) - 1)
    due = {1 + (updates - 1) * quarter // QUARTERS for quarter in range(QUARTERS + 1)}
    return due.__contains__
