"""Names that tell files apart, where there is little room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def told_apart(names: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """A name for each file: those that have one in common get their folder's too, or a number."""
    count = Counter(names)
    longer = [
        f"{path.resolve().parent.name}/{name}" if count[name] > 1 else name
        for name, path in zip(names, paths, strict=True)
    ]
    return [name if longer.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(longer, start=1)]
