"""Where a tensor's range may end, around which codes, in which of its units: and the squared error that each leaves.

A tensor that is divided by a factor has a grid up to the power of two above its range, signed or not, or one of half
the steps around another zero point, where its ends fit (see `QuantSpec.refined`). What a curve reads may end octaves
lower: a Tanh of 4 and one of 16 are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import Float64Array
from qpipe.arith.spec import STORAGE_MAX, QuantSpec
from qpipe.arith.table import GridOrTable
from qpipe.calibration.expected_error import COHERENT, expected_errors
from qpipe.calibration.observe import ObservedRange
from qpipe.calibration.percentile import FloatArray
from qpipe.calibration.rounding_error import squared_errors
from qpipe.calibration.samples import Sample
from qpipe.ir.quantized.plan import PlannedQuantizer
from qpipe.ops import Curve, Units

FACTORS = np.exp2(np.arange(8) / 8)
"""What is tried: the next of two leaves at most 9 percent of a range."""
OCTAVE_ROOM = 2.0**0.5
"""Of a range that must end at a power of two: room for other samples that it has on average."""
MOSTLY = 2 / 3
"""Of a bound: a range that reaches so far ends at the bound, which no other sample exceeds."""
_ENDS = {(1.0, STORAGE_MAX), (1.0, STORAGE_MAX // 2)}
"""Of many curves, and the last codes of unsigned and signed grids."""
_LOWER = (1, 2, 3)
"""Octaves by which a range that a curve reads may end lower."""


@dataclass(frozen=True)
class Place:
    """In one unit, the tensor divided by `factor`: grids up to `lower` octaves below the power of two above its range.

    grids: that of its sign, and that of half the steps around another zero point, if there is one.
    """

    factor: float
    lower: int
    grids: tuple[QuantSpec, ...]


@dataclass
class Tensor:
    """What a quantizer rounds: what was seen of it, and where it is to end.

    observed: its range. ends: how far below and above 0 it was seen, `[2]`. headroom, spread: what is foreseen of other
    samples' sizes (see `Sample`).
    """

    planned: PlannedQuantizer
    sample: Sample
    observed: ObservedRange
    ends: Float64Array
    headroom: float
    spread: float
    place: Place = field(init=False)
    grid: QuantSpec = field(init=False)
    """Of its place, the one that errs less."""
    _tight: Float64Array = field(init=False)

    @property
    def curve(self) -> Curve | None:
        """One that takes up what it reads in one unit and gives in another."""
        curve = self.planned.curve
        return None if curve is None or curve.is_homogeneous else curve

    @property
    def value(self) -> ir.Value:
        """What has its factor: what such a curve reads, or what leaves the quantizer."""
        return self.planned.value if self.curve is None else self.planned.observed

    @property
    def rounded(self) -> ObservedRange:
        """Its range as it is to be: up to a power of two, in its unit."""
        top, place = self._top(self.place.factor), self.place
        zero_point = self.grid.zero_point if self.grid is not place.grids[0] else None
        unrounded = self.observed.ymax / place.factor
        return replace(self.observed, ymax=2.0 ** (top - place.lower), unrounded=unrounded, zero_point=zero_point)

    def make_room(self, *, is_alone: bool) -> None:
        """Let its range have room for other samples: all of it where its factor is its own."""
        ymax, bound = self.observed.ymax, self.planned.bound
        # What another zero point leaves on either side is as much as is asked for, and no more.
        self._tight = self.headroom * np.minimum(self.ends, ymax)
        # One that has no factor of its own has room below its power of two, and the next costs a bit.
        ymax *= self.headroom if is_alone else max(self.headroom / OCTAVE_ROOM, 1.0)
        self.observed = replace(self.observed, ymax=bound if ymax > MOSTLY * bound else ymax)
        self.ends = np.minimum(self.ends, self.observed.ymax)

    def put(self, place: Place, errors: Float64Array) -> None:
        """Let it end there, on the grid with the least of these errors, `[2]`."""
        self.place, self.grid = place, place.grids[int(errors[: len(place.grids)].argmin())]

    def fixed_places(self) -> list[Place]:
        """Of its own unit: as high as its range, and lower where a curve reads it."""
        lower = _LOWER if self.planned.curve is not None else ()
        return [self._place(1.0, each, self.ends) for each in (0, *lower)]

    def free_places(self, factors: Float64Array) -> list[Place]:
        """With each factor one: where a curve reads it, its ends lie within an octave around that of `place`."""
        if self.curve is None:
            return [self._place(factor, 0, self._tight) for factor in factors.tolist()]
        end = self._top(1.0) - self.place.lower
        tops = [self._top(factor) + math.log2(factor) for factor in factors.tolist()]
        lowers = [max(round(top - end), 0) for top in tops]
        return [self._place(*each, self.ends) for each in zip(factors.tolist(), lowers, strict=True)]

    def expected(self, place: Place) -> Float64Array:
        """The error of each grid that is expected of other samples, `[2]`; of what a curve reads, what the curve errs.

        In parts of power.
        """
        curve = self.planned.curve
        own = replace(curve, units=Units(place.factor)) if curve is not None and self.curve is curve else curve
        found = expected_errors(
            self.sample, place.grids, spread=self.spread, factor=place.factor, limit=self.planned.limit,
            function=None if own is None else own.real,
        )  # fmt: skip
        return np.resize(found, 2)

    def errors(self, place: Place) -> Float64Array:
        """Of each grid in a place that is one of several: as expected where a curve reads it, else `_drawn`, `[2]`."""
        return self._drawn(place) if self.curve is None else self.expected(place)

    def given_errors(self, factors: Float64Array) -> Float64Array:
        """What rounding a curve's result errs by in each unit, in parts of its power, `[F]`."""
        curve, sample, place = self.curve, self.sample, self.place
        assert curve is not None
        within, outside = curve.real(sample.within), curve.real(sample.outside)
        errors = np.zeros(len(factors))
        for index, factor in enumerate(factors.tolist()):
            own = replace(curve, units=Units(place.factor, factor))
            grid = own.table(self.grid, self.planned.bits, self.observed.ymax / place.factor).grid
            scaled = ((y / factor).astype(np.float32) for y in (within, outside))
            rounding, cut = (float(squared_errors(y, [grid])[0]) for y in scaled)
            errors[index] = (rounding * self._times + COHERENT * cut) * factor**2
        return errors / self._power(within, outside)

    def _drawn(self, place: Place) -> Float64Array:
        """Rounding as drawn values show it, and all that is cut off: it is rare and large."""
        within, outside, curve, factor = self.sample.within, self.sample.outside, self.planned.curve, place.factor
        grids: list[GridOrTable] = list(place.grids)
        if curve is not None:
            grids = [curve.table(grid, self.planned.bits, self.observed.ymax / factor) for grid in place.grids]
        real = None if curve is None else curve.real
        rounding, cut = (squared_errors(x / np.float32(factor), grids, real) for x in (within, outside))
        given = (within, outside) if curve is None else (curve.real(within), curve.real(outside))
        found = (np.asarray(rounding) * self._times + COHERENT * np.asarray(cut)) * factor**2
        return np.resize(found / self._power(*given), 2)

    def _place(self, factor: float, lower: int, ends: Float64Array) -> Place:
        top, planned, curve = self._top(factor) - lower, self.planned, self.curve
        low, high = np.minimum(ends, min(planned.limit, factor * 2.0**top if lower else math.inf)).tolist()
        units = planned.curve if curve is None else replace(curve, units=Units(factor))
        in_unit = replace(planned, bound=planned.bound / factor, curve=units)
        grid = in_unit.grid(top, is_negative=self.observed.is_negative)
        is_free = math.isinf(planned.bound) and not self.observed.is_given
        other = grid.refined(-low / factor, high / factor) if is_free else grid
        return Place(factor, lower, (grid,) if other == grid else (grid, other))

    def _top(self, factor: float) -> int:
        return replace(self.observed, ymax=self.observed.ymax / factor).log2_ymax() or 0

    @property
    def _times(self) -> float:
        """How many values each of those that were drawn stands for."""
        return max(self.sample.count - self.sample.outside.size, 0) / max(self.sample.within.size, 1)

    def _power(self, within: FloatArray, outside: FloatArray) -> float:
        power = self._times * np.square(within, dtype=np.float64).sum() + np.square(outside, dtype=np.float64).sum()
        return float(power) or 1.0


def tried_factors(quantizers: Iterable[PlannedQuantizer]) -> Float64Array:
    """FACTORS, and those with which a certain number is the last code of a grid.

    A ReLU6 has 255 codes for 192, and what ends at 1, as a Sigmoid and a Tanh do, would miss it by a code.
    """
    bounds = {(planned.bound, 2**planned.rounded_bits - 1) for planned in quantizers if math.isfinite(planned.bound)}
    ratios = np.array([bound / last for bound, last in sorted(bounds | _ENDS)])
    return np.concatenate([FACTORS, ratios / np.exp2(np.floor(np.log2(ratios)))])
