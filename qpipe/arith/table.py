"""A table behind an 8-bit quantizer: its codes become others, of levels that no evenly spaced grid has.

    q = clip(round(x / rounded_to.scale)) + rounded_to.zero_point        code = entries[q]
    level = (code - grid.zero_point) * grid.scale

The levels lie on a power-of-two grid again, so that whoever reads the codes computes with integers as ever. What comes
before the table is rounded to `rounded_to`: its range and its steps are what a requantization is proven for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qpipe.arith.namespace import A, Float64Array, namespace
from qpipe.arith.power_of_two import rounded_log2
from qpipe.arith.quantize import quantize
from qpipe.arith.spec import STORAGE_MAX, QuantSpec

SIZE = STORAGE_MAX + 1


@dataclass(frozen=True)
class CodeTable:
    """entries: the code of `grid` for each uint8 code, 256; those that `rounded_to` does not reach mean nothing.

    basis: the numbers that the entries are made from, where training goes on from these.
    """

    rounded_to: QuantSpec
    grid: QuantSpec
    entries: tuple[int, ...]
    basis: tuple[float, ...] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        low, high = self.grid.stored_min, self.grid.stored_max
        if len(self.entries) != SIZE:
            raise ValueError(f"a table of {len(self.entries)} entries, expected {SIZE}")
        outside = [code for code in self.reached if not low <= code <= high]
        if outside:
            raise ValueError(f"entry {outside[0]} of a table, expected codes from {low} to {high}")

    @property
    def reached(self) -> tuple[int, ...]:
        """The entries of the codes that there are."""
        return self.entries[self.rounded_to.stored_min : self.rounded_to.stored_max + 1]

    @property
    def reach(self) -> QuantSpec:
        """`grid` with no more range than what the entries reach, and 0, which padding puts between them."""
        low, high = min(self.reached) - self.grid.zero_point, max(self.reached) - self.grid.zero_point
        return replace(self.grid, qmin=min(low, 0), qmax=max(high, 0))

    @property
    def bits(self) -> int:
        """The width of an index into the levels."""
        return max((len(set(self.reached)) - 1).bit_length(), 1)

    def array(self) -> npt.NDArray[np.uint8]:
        """The entries as a file stores them, uint8 `[256]`."""
        return np.array(self.entries, np.uint8)

    def saturating(self, spec: QuantSpec | None = None) -> npt.NDArray[np.uint8]:
        """The same, with what the ends of a range give beyond it: a Clip to it in front would change nothing.

        spec: the range, within that of `rounded_to`; by default it is that.
        """
        spec = spec or self.rounded_to
        return self.array()[np.clip(np.arange(SIZE), spec.stored_min, spec.stored_max)]

    def levels(self) -> npt.NDArray[np.float32]:
        """The real number that each entry stands for, float32 `[256]`, exact."""
        return ((self.array().astype(np.float32) - self.grid.zero_point) * np.float32(self.grid.scale)).astype(
            np.float32
        )


def function_table(
    function: Callable[[Float64Array], Float64Array],
    before: QuantSpec,
    bits: int,
    largest: float = math.inf,
    *,
    after: QuantSpec | None = None,
) -> CodeTable:
    """The table of a real function: of each code of `before` the nearest number on a grid of `bits`, half to even.

    largest: the magnitude beyond which x hardly occurs; what the function gives there may saturate. 0: it is unknown.
    after: that grid; by default the finest that holds what is usual.
    """
    integers = np.clip(np.arange(SIZE) - before.zero_point, before.qmin, before.qmax)
    x: Float64Array = integers * np.float64(before.scale)
    y = function(x)
    usual = y[np.abs(x) <= (largest or math.inf)]
    after = after or _grid_for(float(usual.min()), float(usual.max()), bits)
    return CodeTable(before, after, tuple((quantize(y, after) + after.zero_point).astype(int).tolist()))


def _grid_for(low: float, high: float, bits: int) -> QuantSpec:
    """The finest grid of so many bits that holds both: unsigned, or begun a little below 0, or signed."""
    top = max(high, -low)
    log2_ymax = int(rounded_log2(np.asarray(top), "ceil")) if top else 0
    unsigned = QuantSpec.for_range(bits, log2_ymax, signed=False)
    below = round(-low / unsigned.scale)
    if below <= 0:
        return unsigned
    if round(high / unsigned.scale) + below <= unsigned.qmax:
        return QuantSpec(unsigned.exponent, -below, unsigned.qmax - below, below)
    return QuantSpec.for_range(bits, log2_ymax, signed=True)


def row_sizes(shape: Sequence[Any]) -> list[int] | None:
    """What a Reshape from one row to this shape takes, of any batch; None where more sizes are open.

    onnxruntime looks a row up five times as fast and more: GatherElements copies number by number in one loop, where
    Gather, which can copy whole slices, calls a copy for each.
    """
    rest = [size if isinstance(size, int) else -1 for size in shape[1:]]
    if not len(shape) or rest.count(-1) > isinstance(shape[0], int):
        return None
    return [shape[0] if -1 in rest else -1, *rest]


GridOrTable = QuantSpec | CodeTable
"""What real numbers are rounded to: a grid, or one with a table behind it."""


def table_index(x: A, before: QuantSpec) -> A:
    """The code of `before` that a real number gets, int32: what a table is looked up at (of a NaN, any)."""
    xp = namespace(x)
    return xp.clip(xp.asarray(quantize(x, before) + before.zero_point, dtype=xp.int32), 0, STORAGE_MAX)
