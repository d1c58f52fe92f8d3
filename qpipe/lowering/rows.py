"""A tensor as one row and back: onnxruntime looks a row up ten times as fast as anything else.

GatherElements copies number by number in one loop; Gather, which can copy whole slices, calls a copy for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def row_sizes(shape: Sequence[Any]) -> list[int] | None:
    """What a Reshape from one row to this shape takes: -1 is the size that is open; None where more than one is."""
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    return sizes if sizes and sizes.count(-1) <= 1 else None
