"""Linear Resize: means of two neighbours along each axis, by integer weights, rounded once.

Runtimes compute it in float32. That gives the integers where all weights are dyadic, because then nothing is rounded
but the result; and where the common denominator is odd and small, because then no mean is a tie, and float32 errs by
less than what lies between a mean and the next tie.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import numpy as np

from qpipe.arith.multiplier import FLOAT32_EXACT
from qpipe.arith.namespace import Float64Array, IntArray
from qpipe.arith.spec import STORAGE_MAX
from qpipe.arith.symbolic import INT32, Symbol
from qpipe.ops.scaling import Scaling

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.qdq import ActivationQuantizer
    from qpipe.lowering.integer_builder import IntegerBuilder, Layout

_ROUNDINGS: Final = {"align_corners": 2, "asymmetric": 2, "half_pixel_symmetric": 6}
"""Of float32, each by half a unit in the last place, that a coordinate goes through: the factor, a quotient, and, in
other modes, a difference."""
NEAR: Final = 1e-4
"""Pixels: a factor is a float, and places drift by its rounding."""
_OF_MEAN: Final = 5
"""The same of a mean of four: two products, three sums."""


@dataclass(frozen=True)
class Line:
    """One axis: `y[i] = ((total - weight[i]) * x[low[i]] + weight[i] * x[high[i]]) / total`, all integers."""

    low: IntArray
    high: IntArray
    weight: IntArray
    total: int

    def parts(self) -> tuple[tuple[IntArray, IntArray], ...]:
        """Places and weights of both neighbours; of one where no weight falls on the other."""
        found = (self.low, self.total - self.weight), (self.high, self.weight)
        return found if self.weight.any() else found[:1]


def line_of(along: Scaling, mode: str) -> Line:
    """Its coordinates within the image, as weights."""
    found = _within(along, along.coordinates(mode))
    total = math.lcm(*(x.denominator for x in found))
    low = np.array([math.floor(x) for x in found], np.int64)
    weight = np.array([int((x - math.floor(x)) * total) for x in found], np.int64)
    return Line(low, np.minimum(low + 1, along.size - 1), weight, total)


def float_problem(axes: Sequence[Scaling], mode: str) -> str | None:
    """Why float32 may give another integer than the exact mean; None where it does not."""
    total = math.prod(line_of(along, mode).total for along in axes)
    if total % 2:
        # A mean that is no tie lies 1 / 2 total beside the next one.
        errors = _ROUNDINGS.get(mode, 3) * sum(along.size for along in axes) + _OF_MEAN
        if 2 * total * STORAGE_MAX * errors < FLOAT32_EXACT:
            return None
    elif total & (total - 1) == 0 and total * STORAGE_MAX <= FLOAT32_EXACT:
        exact = (_within(along, along.coordinates(mode)) for along in axes)
        found = (_within(along, [Fraction(float(x)) for x in along.in_float32(mode)]) for along in axes)
        if all(a == b for a, b in zip(exact, found, strict=True)):
            return None
    sizes = " and ".join(f"{along.size} to {along.new}" for along in axes)
    return f"its weights ({sizes} pixels) are no sums of a few powers of two: use a factor of 2 without align_corners"


def _within(along: Scaling, coordinates: Iterable[Fraction]) -> list[Fraction]:
    return [min(max(x, Fraction(0)), Fraction(along.size - 1)) for x in coordinates]


def taps_of(place: float, cubic: float | None) -> tuple[int, list[float]]:
    """The first neighbour of a place, and the weights of all of them. cubic: its coefficient; None of linear means."""
    base = math.floor(place + NEAR / 2)
    t = place - base
    if cubic is None:
        return (base, [1 - t, t]) if abs(t) > NEAR else (base, [1.0])
    a, found = cubic, []
    for x in (1 + t, abs(t), abs(1 - t), 2 - t):
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        found.append(near if x <= 1 else ((a * x - 5 * a) * x + 8 * a) * x - 4 * a)
    return base - 1, found


def matrix_of(along: Scaling, mode: str, cubic: float | None) -> Float64Array:
    """`[new, size]`: the weights of one axis; what lies beyond an edge is what lies on it. cubic: as of `taps_of`."""
    matrix = np.zeros((along.new, along.size))
    for row, place in zip(matrix, along.coordinates(mode), strict=True):
        first, weights = taps_of(float(place), cubic)
        np.add.at(row, np.arange(first, first + len(weights)).clip(0, along.size - 1), weights)
    return matrix


def mean_of(x: torch.Tensor, axis: int, line: Line) -> torch.Tensor:
    """The means along an axis."""
    import torch

    total = None
    for places, weights in line.parts():
        shape = [-1 if i == axis else 1 for i in range(x.ndim)]
        factors = torch.from_numpy(weights / line.total).to(x).reshape(shape)
        term = x.index_select(axis, torch.from_numpy(places).to(x.device)) * factors
        total = term if total is None else total + term
    assert total is not None
    return total


def sum_of(x: IntArray, axis: int, line: Line) -> IntArray:
    """`total` times the means, in numpy."""
    along = [-1 if i == axis else 1 for i in range(x.ndim)]
    found: IntArray = np.sum([np.take(x, places, axis) * ws.reshape(along) for places, ws in line.parts()], axis=0)
    return found


def symbolic_sum(
    b: IntegerBuilder, source: ActivationQuantizer, layout: Layout, lines: Sequence[tuple[int, Line]]
) -> Symbol:
    """int32 sums of codes by the weights of these axes, which count those of the QDQ graph's tensor."""
    dims = len(source.codes.shape or ())
    value, is_code = b.codes(source, layout), True
    total: Symbol | None = None
    for axis, line in lines:
        along = b.axis(axis, dims, layout)
        shape = [-1] + [1] * (len(b.arranged(range(dims), layout)) - 1 - along)
        total = None
        for places, weights in line.parts():
            taken = b.node("Gather", [value, b.integers(places.tolist())], value.type.dtype.numpy(), axis=along)  # type: ignore[union-attr]
            term = Symbol(b, b.cast(taken, INT32) if is_code else taken, INT32) * weights.reshape(shape)
            total = term if total is None else total + term
        assert total is not None
        value, is_code = total.handle, False
    return Symbol(b, b.cast(value, INT32) if is_code else value, INT32)
