"""One of the things that `--diagnose` measures."""

from __future__ import annotations

from typing import Any

from qpipe.train.observer import Observer


class Measurement(Observer):
    """An observer that has a result when training has ended."""

    def result(self) -> dict[str, Any]:
        """Plain values by name, for the file's record; after `on_end`."""
        return {}
