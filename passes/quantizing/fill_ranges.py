"""Let each tensor's range end where its grid does, by a factor on the tensor itself.

A grid's step is a power of two, so a range that is rounded up to one wastes up to a bit. But between layers with
weights a tensor's unit is free: x' = x / r for any r > 0, which the layers that write x divide their weights by and
those that read it multiply theirs with, is the same network (see `qpipe.ir.graph.scale_groups`). With r from 1 to 2 a
range fills its grid as if scales were free.

A range has room for what other samples will have, as `qpipe.calibration.samples` foresees it: with few samples that
differ in size a lot, with many none.

For each r of a few the squared error of a tensor on the grid above its range is measured: rounding on values drawn
from it, and all that is cut off, which counts `COHERENT` times. A group of tensors that share their unit gets the r
with which the errors of all, each in parts of its tensor's power, sum up to the least. Weights that have no multiplier
behind them lie on powers of two as well, and r moves them: what they lose is part of the sum. What has no such layers
around it keeps the power of two above its range.

A signed tensor of 8 bits that lies more on one side of 0 may have codes of half the steps around another zero point.
With each r the better of both counts: what reaches from -6 to 3 fills 255 codes of 1/32 in parts of 9/8, and in parts
of 3/2 those around 0 to three quarters. What has no factor gets them where they are expected to err less on samples
that were not seen (`qpipe.calibration.expected_error`).

A lower power of two, which cuts off more and errs less on average, was tried and lost: what is largest is what maxima
pass on, and what classes are told apart by (a sensor network with a global maximum: 31 dB for 38). Only what a curve
alone reads may end lower, where that errs less behind the curve: a Tanh of 4 and one of 16 are the same, and codes up
to 4 have a quarter of the steps.

Source: Nagel et al. 2019, *Data-Free Quantization Through Weight Equalization and Bias Correction*, section 4.1, for
factors that move between layers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from passes.quantizing.calibrate_percentile import NARROW_KEY, take_range, write_range
from passes.quantizing.fit_input import write_units
from qpipe.arith.namespace import AnyArray, Float64Array
from qpipe.arith.spec import QuantSpec
from qpipe.arith.table import GridOrTable
from qpipe.calibration.expected_error import COHERENT, expected_errors
from qpipe.calibration.observe import ObservedRange
from qpipe.calibration.rounding_error import squared_errors
from qpipe.calibration.samples import Sample, sample_values
from qpipe.calibration.shard import ALONE, Shard
from qpipe.formats.base import Around, WeightOptions
from qpipe.formats.table import EDGE_FORMAT
from qpipe.ir.graph.layer_options import NO_OPTIONS, LayerTable
from qpipe.ir.graph.layers import Layer
from qpipe.ir.graph.scale_groups import ScaleGroup, scale_groups
from qpipe.ir.quantized.plan import EDGE_BITS, PlannedQuantizer, plan_quantization
from qpipe.nodes import require_constant
from qpipe.ops.weight_layout import to_rows

FACTORS = np.exp2(np.arange(8) / 8)
"""What is tried: the next of two leaves at most 9 percent of a range."""
OCTAVE_ROOM = 2.0**0.5
"""Of a range that must end at a power of two: room for other samples that it has on average."""
MOSTLY = 2 / 3
"""Of a bound: a range that reaches so far ends at the bound, which no other sample exceeds."""
LOWER = (1, 2, 3)
"""Octaves by which a range that a curve reads may end lower."""
VALUES = 2**15
"""That are drawn of each tensor."""
Grids = tuple[QuantSpec, QuantSpec]
"""Of a tensor in one unit: that of its sign, and that of half the steps around another zero point, if there is one."""


@dataclass(frozen=True, kw_only=True)
class FillRanges(ir.passes.InPlacePass):
    """Replace each observed `ymax` by the power of two above it, and move factors between the layers around tensors.

    inputs: float32 `[N, C, H, W]`, which values are drawn from. foresees: leave room for other samples.
    """

    name: ClassVar[str] = "fill-ranges"

    activation_bits: int = 8
    layers: LayerTable = NO_OPTIONS
    foresees: bool = True
    inputs: Any = field(default=(), repr=False, metadata={"argument": False})
    shard: Shard = field(default=ALONE, repr=False, metadata={"argument": False})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Round and rescale; raises ModelError on a tensor without a range, DataError on inputs that can't be used."""
        plan = plan_quantization(model.graph, activation_bits=self.activation_bits, layers=self.layers)
        observed = {value: take_range(value) for value in plan.quantizers}
        groups = scale_groups(plan.layers)
        shared = {v for group in groups for v in group.values if v in observed}
        # An input has its own rule.
        inner = {v: q for v, q in plan.quantizers.items() if not v.is_graph_input()}
        ranged = {v: q for v, q in inner.items() if _top(observed[v]) is not None}
        # What reads an input that has a unit reads its quantizer's numbers.
        runs = model.clone()
        write_units(runs)
        drawn = self._drawn(runs, ranged, observed)
        rooms = self._rooms(drawn)
        ends = self._ends(drawn)
        free = {v: q for v, q in ranged.items() if v in shared}
        # What another zero point leaves on either side is as much as is asked for, and no more.
        tight = {value: rooms[value] * np.minimum(ends[value], observed[value].ymax) for value in free}
        alone = {v for group in groups for v in group.values if len(shared.intersection(group.values)) == 1}
        for value, room in rooms.items():
            # One that has no factor of its own has room below its power of two, and the next costs a bit.
            needed = room if value in alone else max(room / OCTAVE_ROOM, 1.0)
            ymax, bound = observed[value].ymax * needed, ranged[value].bound
            observed[value] = dataclasses.replace(observed[value], ymax=bound if ymax > MOSTLY * bound else ymax)
        tried = _tried(free.values())
        grids = {v: _grids(q, observed[v], tight[v], tried) for v, q in free.items()}
        errors = self._errors(free, grids, drawn, observed, tried)
        factors, zeros = dict.fromkeys(observed, 1.0), dict[ir.Value, int]()
        for group in groups:
            index = _best_factor(group, errors, plan.compared, tried)
            group.divide(float(tried[index]))
            for value in group.values:
                if value in observed:
                    factors[value] = float(tried[index])
                if value in errors and errors[value][index].argmin():
                    zeros[value] = grids[value][index][1].zero_point
        fixed = {v: (q, drawn[v], np.minimum(ends[v], observed[v].ymax)) for v, q in ranged.items() if v not in shared}
        places = self._places(fixed, observed)
        zeros |= {value: zero_point for value, (_, zero_point) in places.items() if zero_point is not None}
        for value, found in observed.items():
            if (top := _top(found, factors[value])) is not None:
                lower, _ = places.get(value, (0, None))
                found = dataclasses.replace(
                    found, ymax=2.0 ** (top - lower), unrounded=found.ymax / factors[value], zero_point=zeros.get(value)
                )
            write_range(value, found)
        for value in plan.narrowed:
            found = take_range(value, NARROW_KEY)
            write_range(value, dataclasses.replace(found, ymax=found.ymax / factors[value]), NARROW_KEY)
        return ir.passes.PassResult(model, bool(observed))

    def _drawn(
        self,
        model: ir.Model,
        quantizers: Mapping[ir.Value, PlannedQuantizer],
        observed: Mapping[ir.Value, ObservedRange],
    ) -> dict[ir.Value, Sample]:
        """Of what each rounds."""
        names = {value: str(planned.observed.name) for value, planned in quantizers.items()}
        ranges = {name: observed[value].ymax for value, name in names.items()}
        drawn = sample_values(model, ranges, self.inputs, count=VALUES) if ranges else {}
        return {value: drawn[name] for value, name in names.items()}

    def _rooms(self, drawn: Mapping[ir.Value, Sample]) -> dict[ir.Value, float]:
        """By what other samples are taken to exceed these; 1 where nothing is foreseen."""
        rooms = [[sample.headroom if self.foresees else 1.0] for sample in drawn.values()]
        # Processes run the same images, but another machine may add up in another order.
        return dict(zip(drawn, self.shard.largest(np.array(rooms).reshape(-1, 1))[:, 0].tolist(), strict=True))

    def _ends(self, drawn: Mapping[ir.Value, Sample]) -> dict[ir.Value, Float64Array]:
        """How far below and above 0 each was seen: `[2]`."""
        rows = [[-sample.low, sample.high] for sample in drawn.values()]
        return dict(zip(drawn, self.shard.largest(np.array(rows, np.float64).reshape(-1, 2)), strict=True))

    def _places(
        self,
        tensors: Mapping[ir.Value, tuple[PlannedQuantizer, Sample, Float64Array]],
        observed: Mapping[ir.Value, ObservedRange],
    ) -> dict[ir.Value, tuple[int, int | None]]:
        """Of tensors in fixed units: how many octaves lower they end, and around which codes of half the steps.

        Where each is expected to err least. One ends lower only where a curve reads it, behind which errors count.
        """
        spreads = self.shard.largest(np.array([[s.spread] for _, s, _ in tensors.values()]).reshape(-1, 1))[:, 0]
        tried = {
            value: [
                (lower, grid, index)
                for lower in (0, *(LOWER if planned.curve is not None else ()))
                for index, grid in enumerate(_grids(planned, observed[value], ends, np.ones(1), lower)[0])
            ]
            for value, (planned, _, ends) in tensors.items()
        }
        errors = [
            expected_errors(
                sample, [grid for _, grid, _ in tried[value]], spread=spread if self.foresees else 0.0,
                limit=planned.limit, function=None if planned.curve is None else planned.curve.real,
            )
            for (value, (planned, sample, _)), spread in zip(tensors.items(), spreads.tolist(), strict=True)
        ]  # fmt: skip
        merged = iter(self.shard.largest(np.concatenate([*errors, np.zeros(0)]).reshape(-1, 1))[:, 0])
        found = dict[ir.Value, tuple[int, int | None]]()
        for value, places in tried.items():
            own = [next(merged) for _ in places]
            lower, grid, is_around = places[int(np.argmin(own))]
            found[value] = lower, grid.zero_point if is_around else None
        return found

    def _errors(
        self,
        quantizers: Mapping[ir.Value, PlannedQuantizer],
        grids: Mapping[ir.Value, Sequence[Grids]],
        drawn: Mapping[ir.Value, Sample],
        observed: Mapping[ir.Value, ObservedRange],
        factors: Float64Array,
    ) -> dict[ir.Value, Float64Array]:
        """Of each tensor that shares its unit: the squared error in parts of its power, with each factor, `[F, 2]`.

        The second is that of another zero point.
        """
        if not grids:
            return {}
        found = [_error(quantizers[v], drawn[v], own, observed[v].ymax, factors) for v, own in grids.items()]
        merged = self.shard.largest(np.concatenate(found))
        return dict(zip(grids, merged.reshape(-1, len(factors), 2), strict=True))


def _top(observed: ObservedRange, factor: float = 1.0) -> int | None:
    """log2 of the power of two above a range in another unit; None of zeros."""
    return dataclasses.replace(observed, ymax=observed.ymax / factor).log2_ymax()


def _tried(quantizers: Iterable[PlannedQuantizer]) -> Float64Array:
    """FACTORS, and those with which a bound is the last code of a grid: a ReLU6 has 255 codes for 192."""
    bounds = {(planned.bound, planned.rounded_bits) for planned in quantizers if math.isfinite(planned.bound)}
    ratios = np.array([bound / (2**bits - 1) for bound, bits in sorted(bounds)])
    return np.concatenate([FACTORS, ratios / np.exp2(np.floor(np.log2(ratios)))])


def _grids(
    planned: PlannedQuantizer, observed: ObservedRange, ends: Float64Array, factors: Float64Array, lower: int = 0
) -> list[Grids]:
    """Of the tensor divided by each factor: the grid of its sign, and that of half the steps where the ends fit.

    lower: by so many octaves than the range.
    """
    found = []
    is_free = math.isinf(planned.bound) and not observed.is_given
    for factor in factors.tolist():
        top = (_top(observed, factor) or 0) - lower
        low, high = np.minimum(ends, min(planned.limit, factor * 2.0**top if lower else math.inf)).tolist()
        grid = dataclasses.replace(planned, bound=planned.bound / factor).grid(top, is_negative=observed.is_negative)
        found.append((grid, grid.refined(-low / factor, high / factor) if is_free else grid))
    return found


def _error(
    planned: PlannedQuantizer, sample: Sample, grids: Sequence[Grids], largest: float, factors: Float64Array
) -> Float64Array:
    """Rounding as drawn values show it, and all that is cut off: it is rare and large. `[F, 2]`.

    largest: where the range ends. Where a curve reads the tensor it is what the curve's table errs by that counts.
    """
    within, outside, curve = sample.within, sample.outside, planned.curve
    times = max(sample.count - outside.size, 0) / max(within.size, 1)
    errors = np.zeros((len(factors), 2))
    for own, pair, factor in zip(errors, grids, factors, strict=True):
        different: list[GridOrTable] = list(dict.fromkeys(pair))
        if curve is not None:
            different = [curve.table(grid, planned.bits, largest / factor) for grid in dict.fromkeys(pair)]
        real = None if curve is None else curve.real
        rounding, cut = (squared_errors(x / np.float32(factor), different, real) for x in (within, outside))
        own[:] = (np.asarray(rounding) * times + COHERENT * np.asarray(cut)) * factor**2
    given = (within, outside) if curve is None else (curve.real(within), curve.real(outside))
    power = times * np.square(given[0], dtype=np.float64).sum() + np.square(given[1], dtype=np.float64).sum()
    return errors / (float(power) or 1.0)


def _best_factor(
    group: ScaleGroup, errors: Mapping[ir.Value, Float64Array], compared: set[ir.Node], factors: Float64Array
) -> int:
    """The index of that with which tensors and weights lose least; those for bounds are for groups that have one."""
    loss = np.sum([errors[value].min(axis=1) for value in group.values if value in errors] or [0 * factors], axis=0)
    for index, factor in enumerate(factors):
        loss[index] += sum(_weight_error(layer, factor, layer.node in compared) for layer in group.readers)
        loss[index] += sum(_weight_error(layer, 1 / factor, layer.node in compared) for layer in group.writers)
    return int(loss[: None if group.clips else len(FACTORS)].argmin())


def _weight_error(layer: Layer, factor: float, is_compared: bool) -> float:
    """Of weights times a factor, in parts of their power; 0 where a multiplier frees them from powers of two."""
    if layer.batch_norm is not None or not layer.is_weighted:
        return 0.0
    weight: AnyArray = require_constant(layer.node, 1, "weight")
    rows: AnyArray = to_rows(layer.node, weight).astype(np.float32) * np.float32(factor)
    none = np.zeros(len(rows))
    # What pairs cost is made up for, when weights are fitted.
    options, grid = WeightOptions(per_channel=not is_compared), QuantSpec.unsigned(EDGE_BITS, 0)
    spec, _ = EDGE_FORMAT.first(layer.node, rows, EDGE_BITS, grid, options)
    codes, exponents = spec.quantize(rows, Around(none + 1, none, grid, None))
    difference = np.ldexp(codes.astype(np.float64), exponents.astype(np.int32)[:, None]) - rows
    return float(np.square(difference).sum() / max(float(np.square(rows, dtype=np.float64).sum()), 1e-300))
