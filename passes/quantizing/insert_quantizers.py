"""Turn a calibrated float graph into a QDQ graph on power-of-two grids.

An activation becomes QuantizeLinear to uint8, an integer Clip where its range is narrower, DequantizeLinear; a weight
the same from its float values, which stay in the file, so that it can be trained again.

    unsigned: l = log2(ymax) - b        signed: l = log2(ymax) - (b - 1)        (FAQ, sections 3.1 and 3.2)

A ReLU6's bound becomes the Clip's; what is no clip of its input, such as a Sigmoid, a table behind 8 bits of it (see
`qpipe.arith.table`). A carrier's output has its input's grid. Concat's inputs are requantized to one
grid: of the widest width among theirs, and just coarse enough for the largest of their ranges. An unsafe pair of
weights (see `qpipe.arith.weights`) is stored at its code.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import onnx_ir as ir
from pydantic import JsonValue

from passes.quantizing.calibrate_percentile import NARROW_KEY, RANGE_KEY, take_range
from passes.quantizing.fit_input import take_unit
from passes.quantizing.near_grids import bring_near
from qpipe.arith.power_of_two import Rounding
from qpipe.arith.spec import QuantSpec
from qpipe.arith.table import CodeTable, GridOrTable
from qpipe.arith.weights import pair_limit
from qpipe.calibration.observe import default_percentile
from qpipe.errors import LoweringError, RecipeError
from qpipe.formats import DEFAULT, WeightQuantizer
from qpipe.formats.base import WeightFormat, WeightOptions
from qpipe.formats.table import EDGE_FORMAT, FORMATS
from qpipe.ir.files.metadata import set_json
from qpipe.ir.files.sizes import read_sizes
from qpipe.ir.graph.binary_blocks import binary_blocks, binary_layers
from qpipe.ir.graph.layer_options import NO_OPTIONS, LayerTable
from qpipe.ir.graph.layers import Layer
from qpipe.ir.quantized.bases import base_grids
from qpipe.ir.quantized.parts import nodes_within
from qpipe.ir.quantized.plan import EDGE_BITS, PlannedQuantizer, QuantizationPlan, plan_quantization
from qpipe.ir.quantized.qdq import insert_activation_quantizer
from qpipe.ir.quantized.view_weights import QUANTIZATION
from qpipe.ir.quantized.write_constant import insert_constant
from qpipe.ir.quantized.write_weight import insert_first_weight
from qpipe.nodes import describe, describe_some
from qpipe.ops import Role
from qpipe.ops.condition import is_truth
from qpipe.ops.silu import inline_silu
from qpipe.ops.weight_layout import is_depthwise

Insert = Callable[..., None]
"""`insert_activation_quantizer` of a graph."""


@dataclass(frozen=True, kw_only=True)
class InsertQuantizers(ir.passes.InPlacePass):
    """Write the QDQ graph; bits and clip are those of the inner layers, the edges have 8 bits.

    quantizer: of the inner layers' weights: "fixed-point" (FAQ), "dorefa", or "lq", which gives unsigned activations of
    4 bits and fewer its levels as well; "bireal", "groupnet": of the layers that `shortcut-every-convolution` or
    `expand-bases` has marked, which get the sign of what they read.
    weight_rounding: of log2 of the weights' step, "ceil" | "nearest"; None is the width's own.
    cpu: "portable" keeps weights exact on x86 without VNNI, "vnni" waives that.
    skip_bits: what a skip connection is carried at. layers: what single layers are told.
    percentile: at which the ranges were observed; None is each width's own.
    """

    name: ClassVar[str] = "insert-quantizers"

    weight_bits: int = 8
    activation_bits: int = 8
    skip_bits: int | None = None
    quantizer: WeightQuantizer = DEFAULT
    weight_clip: float | None = None
    weight_rounding: Rounding | None = None
    per_channel: bool = True
    cpu: str = "portable"
    layers: LayerTable = NO_OPTIONS
    percentile: float | None = None

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Quantize every planned tensor and weight; raise LoweringError that lists what has no integer form."""
        plan = self.check(model)
        chosen, takers = FORMATS[self.quantizer], self._takers(model, plan)
        learned = _learned_values(plan, chosen)
        narrow_grids = {v: self._observed_grid(p, NARROW_KEY, learned) for v, p in plan.narrowed.items()}
        grids = {v: self._observed_grid(p, RANGE_KEY, learned) for v, p in plan.quantizers.items()}
        units = {value: unit for value in model.graph.inputs if (unit := take_unit(value)) is not None}
        grids |= {value: grid for value, (_, grid) in units.items()}
        if chosen.rebuild is not None:
            grids |= base_grids(plan, {v: grid.grid for v, grid in grids.items()}, binary_blocks(model))
        bring_near(plan, grids, narrow_grids, fixed=units)
        narrow, specs = ({value: grid.grid for value, grid in some.items()} for some in (narrow_grids, grids))
        for layer in plan.layers:
            known_to_it = specs | narrow if plan.reads_narrow(layer) else specs
            sources = [known_to_it[value] for value in layer.inputs]
            for index, array in layer.op.fixed_operands(layer.node).items():
                insert_constant(model.graph, layer, index, layer.op.constant_grid(array, sources))
            _check_distance(layer, sources)
            if layer.role is Role.CARRY and layer.curve is not None:
                known = grids.get(layer.output)
                after = known if isinstance(known, QuantSpec) else None
                grids[layer.output] = table = layer.curve.table(sources[0], sources[0].bits, after=after)
                specs[layer.output] = table.grid
                continue
            grid = layer.op.carried(layer.node, sources)
            if grid is not None:
                specs[layer.output] = grid
            elif isinstance(observed := grids.get(layer.output), QuantSpec):
                grids[layer.output] = specs[layer.output] = layer.op.fitted(layer.node, sources, observed)
        # What the sums of a layer are rounded to, where a table of its activation follows.
        rounded = {v: grid.rounded_to for v, grid in grids.items() if isinstance(grid, CodeTable) and v not in learned}
        for layer in plan.layers:
            if layer.is_weighted:
                source, output = (specs | narrow)[layer.inputs[0]], (specs | narrow | rounded).get(layer.output)
                taken = chosen if layer.node in takers else EDGE_FORMAT
                self._insert_weight(model, layer, plan, taken, source, output)
        # Where sizes are known the file that is written is opened again.
        insert = partial(insert_activation_quantizer, model.graph, at_any_size=bool(read_sizes(model)))
        _insert_input_tables(insert, chosen, [layer for layer in plan.layers if layer.node in takers], specs)
        _quantize_narrow(insert, plan, narrow_grids)
        _quantize_activations(insert, plan, specs, grids, {value: unit for value, (unit, _) in units.items()})
        inline_silu(model)
        # Names such as `conv1_scale` may be the graph's own.
        ir.passes.common.NameFixPass()(model)
        options: dict[str, JsonValue] = {
            "weight_clip": self.weight_clip,
            "weight_rounding": self.weight_rounding,
            "cpu": self.cpu,
        }
        if plan.weight_clips:
            options["weight_clips"] = {Layer(node).name: clip for node, clip in plan.weight_clips.items()}
        set_json(model, QUANTIZATION, options)
        return ir.passes.PassResult(model, bool(specs))

    def check(self, model: ir.Model) -> QuantizationPlan:
        """The plan of the network; LoweringError or RecipeError for what can't be so, before anything is observed."""
        plan = plan_quantization(
            model.graph,
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            skip_bits=self.skip_bits,
            layers=self.layers,
        )
        refuse_unsupported(plan)
        chosen, takers = FORMATS[self.quantizer], self._takers(model, plan)
        if chosen.rebuild is not None and not takers:
            passes = " or ".join(known.rebuild for known in FORMATS.values() if known.rebuild is not None)
            raise LoweringError(f"no layer is marked as binary, expected a network that went through {passes}")
        for layer in plan.layers:
            if layer.node in takers:
                chosen.check(layer.node, plan.weight_bits[layer.node], has_batch_norm=layer.batch_norm is not None)
        for node, clip in plan.weight_clips.items():
            if node in takers and "weight_clip" not in chosen.takes:
                raise RecipeError(
                    f"{describe(node)}: weight_clip {clip:g}, expected none with the quantizer '{self.quantizer}'"
                )
        return plan

    def _takers(self, model: ir.Model, plan: QuantizationPlan) -> set[ir.Node]:
        """The layers that get the chosen format: those that a pass has marked for it, or all inner ones."""
        if FORMATS[self.quantizer].rebuild is None:
            return {layer.node for layer in plan.layers if plan.is_inner(layer)}
        marked = binary_layers(model)
        return {layer.node for layer in plan.layers if layer.name in marked}

    def _observed_grid(self, planned: PlannedQuantizer, key: str, learned: Set[ir.Value]) -> GridOrTable:
        observed = take_range(planned.value, key)
        if is_truth(planned.value):
            return QuantSpec.unsigned(planned.rounded_bits, 0)
        log2_ymax = observed.log2_ymax()
        if log2_ymax is None:
            warnings.warn(f"tensor '{planned.value.name}' was zero in all of the calibration data", stacklevel=2)
            log2_ymax = 0
        grid = planned.grid(log2_ymax, is_negative=observed.is_negative, zero_point=observed.zero_point)
        if planned.curve is not None:
            return planned.curve.table(grid, planned.bits, observed.unrounded or observed.ymax)
        if planned.value not in learned:
            return grid
        before = replace(planned, bits=EDGE_BITS).grid(log2_ymax, is_negative=False)
        percentile = self.percentile or default_percentile(planned.bits)
        return FORMATS[self.quantizer].learned_table(planned.bits, before, observed.ymax, percentile)

    def _insert_weight(
        self,
        model: ir.Model,
        layer: Layer,
        plan: QuantizationPlan,
        chosen: type[WeightFormat],
        source: QuantSpec,
        output: QuantSpec | None,
    ) -> None:
        waived = self.cpu == "vnni" or is_depthwise(layer.node)
        options = WeightOptions(
            clip=plan.weight_clips.get(layer.node) or self.weight_clip,
            rounding=self.weight_rounding,
            per_channel=self.per_channel and layer.node not in plan.compared,
            pair_limit=None if waived else pair_limit(source.stored_max),
        )
        insert_first_weight(model, layer, chosen, plan.weight_bits[layer.node], options, source=source, output=output)


def _learned_values(plan: QuantizationPlan, chosen: type[WeightFormat]) -> set[ir.Value]:
    """What gets learned levels: unsigned activations, but those that only carry others' integers."""
    carried = {layer.output for layer in plan.layers if layer.role is Role.CARRY}
    return {
        value for planned in (plan.quantizers, plan.narrowed) for value, quantizer in planned.items()
        if quantizer.signed is False and quantizer.bits in chosen.learned_widths and value not in carried
        and quantizer.curve is None
    }  # fmt: skip


def refuse_unsupported(plan: QuantizationPlan) -> None:
    """LoweringError that names the nodes in the way, or says that no layer has weights."""
    if plan.unsupported:
        raise LoweringError(
            f"no layer of weights has an integer form: {describe_some([layer.node for layer in plan.unsupported])}; "
            "`qpipe inspect` says what to do with each"
        )
    if not plan.weight_bits:
        raise LoweringError("the model has no Conv, Gemm or MatMul with constant weights: nothing to quantize")


def _check_distance(layer: Layer, sources: list[QuantSpec]) -> None:
    """LoweringError where the grids of a layer's operands lie too far apart for an exact result in float32."""
    problem = layer.op.distance(layer.node, sources)
    if problem is not None:
        raise LoweringError(f"{describe(layer.node)}: {problem}")


def _quantize_narrow(insert: Insert, plan: QuantizationPlan, narrow: Mapping[ir.Value, GridOrTable]) -> None:
    """A quantizer of its own for each layer that reads the narrower codes of what is carried wider for a skip."""
    for layer in plan.layers:
        if plan.reads_narrow(layer):
            for value in dict.fromkeys(value for value in layer.inputs if value in narrow):
                insert(value, narrow[value], only=layer.nodes, suffix=layer.name)


def _insert_input_tables(
    insert: Insert, chosen: type[WeightFormat], takers: Sequence[Layer], specs: Mapping[ir.Value, QuantSpec]
) -> None:
    """Where the format has one, a table behind the grid of each tensor that its layers read, one for all that do."""
    tables: dict[ir.Value, ir.Value | None] = {}
    for layer in takers:
        value = layer.inputs[0]
        table = chosen.input_table(specs[value])
        if value in tables:
            layer.node.replace_input_with(0, tables[value])
        elif table is not None:
            insert(value, table, only=[layer.node], suffix=layer.name)
            tables[value] = layer.node.inputs[0]


def _quantize_activations(
    insert: Insert,
    plan: QuantizationPlan,
    specs: Mapping[ir.Value, QuantSpec],
    grids: Mapping[ir.Value, GridOrTable],
    units: Mapping[ir.Value, float],
) -> None:
    """specs: carriers have their inputs'. grids: what has a table. units: of inputs that have one."""
    for layer in plan.layers:
        if layer.op_type == "Concat":
            for value in dict.fromkeys(layer.inputs):
                own, joint = specs[value], specs[layer.output]
                if own != joint:
                    # The quantizer behind the Concat rounds in its place, where the one before has the finer steps.
                    meltable = own.exponent <= joint.exponent and own.zero_point == joint.zero_point
                    insert(value, joint, only=[layer.node], suffix=layer.name, meltable=meltable)
    # A Relu stays: onnxruntime fuses it.
    dropped = {layer.output: layer.output.producer() for layer in plan.layers if layer.activation or layer.curve}
    # What is float already is read as it is by all that stays float.
    floats = nodes_within([*plan.islands, *plan.lookups, *plan.tail])
    for value, spec in specs.items():
        grid, node = grids.get(value), dropped.get(value)
        insert(
            value, grid if isinstance(grid, CodeTable) else spec,
            floats=floats if value in plan.begins else None,
            unit=units.get(value, 1.0),
            replaces=None if node is None or node.op_type == "Relu" else node,
        )  # fmt: skip
