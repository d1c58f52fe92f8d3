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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from passes.quantizing.calibrate_percentile import NARROW_KEY, take_range, write_range
from passes.quantizing.fit_input import write_units
from qpipe.arith.namespace import AnyArray, Float64Array
from qpipe.arith.spec import QuantSpec
from qpipe.calibration.observe import ObservedRange
from qpipe.calibration.places import FACTORS, Tensor, tried_factors
from qpipe.calibration.samples import sample_values
from qpipe.calibration.shard import ALONE, Shard
from qpipe.formats.base import Around, WeightOptions
from qpipe.formats.table import EDGE_FORMAT
from qpipe.ir.graph.layer_options import NO_OPTIONS, LayerTable
from qpipe.ir.graph.layers import Layer
from qpipe.ir.graph.scale_groups import ScaleGroup, scale_groups
from qpipe.ir.quantized.plan import EDGE_BITS, PlannedQuantizer, plan_quantization
from qpipe.nodes import require_constant
from qpipe.ops.weight_layout import to_rows

WITHOUT_CLIP = 0.9
"""Of a loss, where a bound is the last code of its type: uint8 saturates there by itself."""
VALUES = 2**15
"""That are drawn of each tensor."""


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
        ranged = {v: q for v, q in plan.quantizers.items() if observed[v].log2_ymax() is not None}
        # An input has its own rule.
        inner = {v: q for v, q in ranged.items() if not v.is_graph_input()}
        # What reads an input that has a unit reads its quantizer's numbers.
        runs = model.clone()
        write_units(runs)
        groups = scale_groups(plan.layers)
        tensors = self._tensors(runs, inner, observed)
        self._settle(groups, tensors, plan.compared)
        for value, found in observed.items():
            if value in tensors:
                found = tensors[value].rounded
            elif (top := found.log2_ymax()) is not None:
                found = dataclasses.replace(found, ymax=2.0**top, unrounded=found.ymax)
            write_range(value, found)
        for value in plan.narrowed:
            found, factor = take_range(value, NARROW_KEY), tensors[value].place.factor if value in tensors else 1.0
            write_range(value, dataclasses.replace(found, ymax=found.ymax / factor), NARROW_KEY)
        return ir.passes.PassResult(model, bool(observed))

    def _tensors(
        self,
        model: ir.Model,
        quantizers: Mapping[ir.Value, PlannedQuantizer],
        observed: Mapping[ir.Value, ObservedRange],
    ) -> dict[ir.Value, Tensor]:
        """What each rounds, as this network gives it, by the value that each gives."""
        names = {value: str(planned.observed.name) for value, planned in quantizers.items()}
        ranges = {name: observed[value].ymax for value, name in names.items()}
        drawn = sample_values(model, ranges, self.inputs, count=VALUES) if ranges else {}
        samples = [drawn[name] for name in names.values()]
        foreseen = [(sample.headroom, sample.spread) if self.foresees else (1.0, 0.0) for sample in samples]
        # Processes run the same images, but another machine may add up in another order.
        rows = self._largest([[-s.low, s.high, *each] for s, each in zip(samples, foreseen, strict=True)], 4)
        return {
            value: Tensor(planned, sample, observed[value], row[:2], *row[2:].tolist())
            for (value, planned), sample, row in zip(quantizers.items(), samples, rows, strict=True)
        }

    def _settle(self, groups: Sequence[ScaleGroup], tensors: Mapping[ir.Value, Tensor], compared: set[ir.Node]) -> None:
        """Choose each group's factor, and the place of each tensor in its unit."""
        by_value = {own.value: own for own in tensors.values()}
        members = [[by_value[value] for value in group.values if value in by_value] for group in groups]
        alone = {id(own) for own, *others in filter(None, members) if not others}
        free = [own for each in members for own in each]
        for each in tensors.values():
            each.make_room(is_alone=id(each) in alone)
        shared = {id(own) for own in free}
        self._place([each for each in tensors.values() if each.curve is not None or id(each) not in shared])
        factors = tried_factors(own.planned for own in free)
        places = {id(own): own.free_places(factors) for own in free}
        rows = [own.errors(place) for own in free for place in places[id(own)]]
        errors = dict(zip(map(id, free), self._largest(rows, 2).reshape(-1, len(factors), 2), strict=True))

        def choose(group: ScaleGroup, own: Sequence[Tensor], losses: Sequence[Float64Array]) -> None:
            index = _best_factor(group, [*losses, *(errors[id(each)].min(axis=1) for each in own)], compared, factors)
            group.divide(float(factors[index]))
            for each in own:
                each.put(places[id(each)][index], errors[id(each)][index])

        # What a curve's result loses in a unit is known where its table's codes are.
        given = {value: own for value, own in tensors.items() if own.curve is not None}
        of_curves = [[given[value] for value in group.values if value in given] for group in groups]
        for group, own, curves in zip(groups, members, of_curves, strict=True):
            if not curves:
                choose(group, own, [])
        rows = [curve.given_errors(factors) for curves in of_curves for curve in curves]
        losses = iter(self._largest(rows, len(factors)))
        for group, own, curves in zip(groups, members, of_curves, strict=True):
            if curves:
                choose(group, own, [next(losses) for _ in curves])

    def _place(self, tensors: Sequence[Tensor]) -> None:
        """Let each end, in its own unit, where it is expected to err least."""
        places = [own.fixed_places() for own in tensors]
        rows = [own.expected(place) for own, each in zip(tensors, places, strict=True) for place in each]
        errors = iter(self._largest(rows, 2))
        for own, each in zip(tensors, places, strict=True):
            found = np.array([next(errors) for _ in each])
            best = int(found.min(axis=1).argmin())
            own.put(each[best], found[best])

    def _largest(self, rows: Sequence[Any], width: int) -> Float64Array:
        """The largest of all processes' numbers, each place by itself: `[len(rows), width]`."""
        return self.shard.largest(np.array(rows, np.float64).reshape(-1, width))


def _best_factor(
    group: ScaleGroup, errors: Sequence[Float64Array], compared: set[ir.Node], factors: Float64Array
) -> int:
    """The index of that with which tensors and weights lose least; those for ends are for groups that have such.

    errors: of each tensor, `[F]`.
    """
    loss = np.sum([0 * factors, *errors], axis=0)
    for index, factor in enumerate(factors):
        loss[index] += sum(_weight_error(layer, factor, layer.node in compared) for layer in group.readers)
        loss[index] += sum(_weight_error(layer, 1 / factor, layer.node in compared) for layer in group.writers)
    loss[len(FACTORS) :] *= WITHOUT_CLIP if group.clips else 1.0
    return int(loss[: None if group.has_ends else len(FACTORS)].argmin())


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
