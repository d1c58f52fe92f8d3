"""Which tensors of a float graph get a quantizer, of which width: the plan that `inspect` shows and calibration fills.

Source: FAQ, section 3.1: in a network of fewer than 8 bits the first and the last layer's weights and the last layer's
input keep 8 bits, the last ReLU makes the transition (a last layer is one behind which no other has weights); a branch
that comes straight from a convolution is 8-bit signed before the Add; the last layer's output is int32 fixed point and
gets no quantizer, nor does a product's that islands alone read (`qpipe.ir.quantized.last_layers`). What a layer's own
options say (`qpipe.ir.graph.layer_options`) goes before all of this.

With `skip_bits` a tensor that a skip connection carries to an Add keeps that width, where its own is less, and each
layer of weights that reads it requantizes it to its own. (Zhuang et al., *Training Quantized Network with Auxiliary
Gradient Module*, section 1: a skip at few bits costs accuracy, and theirs stays float; here it has integers as well.)
Without it, sums that a normalization reads (`Op.asks_wide`), the residual stream of a transformer, have 16 bits: they
are rounded once in every block, and hold channels and tokens of unlike size. So have products that only sums read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from qpipe.arith.spec import WIDE_BITS, QuantSpec
from qpipe.errors import RecipeError
from qpipe.formats.table import EDGE_FORMAT
from qpipe.ir.graph.edges import Passage, before_weights, feeding_weights
from qpipe.ir.graph.layer_options import NO_OPTIONS, LayerOptions, LayerTable
from qpipe.ir.graph.layers import Layer
from qpipe.ir.quantized.last_layers import find_last
from qpipe.ir.quantized.parts import all_reads, split
from qpipe.ir.quantized.streams import on_skips, summed_products, wide_streams
from qpipe.ops import Curve, Rectifier, Role, activation_of, op_of

EDGE_BITS = 8  # first and last layer's weights, last layer's input, the graph's input, a branch before an Add


@dataclass(frozen=True)
class PlannedQuantizer:
    """A quantizer on `value`, whose range is that of `observed`: what is rounded.

    bits: of the codes that leave it. signed: of what is rounded, None where only the data can tell. bound: a Clip's
    upper bound, or inf. curve: of an activation that becomes a table, behind 8 bits of what comes before it.
    """

    value: ir.Value
    bits: int
    signed: bool | None
    bound: float = math.inf
    curve: Curve | None = None

    @property
    def observed(self) -> ir.Value:
        """`value`, or what the curve reads."""
        node = None if self.curve is None else self.value.producer()
        source = self.value if node is None else node.inputs[0]
        assert source is not None
        return source

    @property
    def rounded_bits(self) -> int:
        """The width of what is rounded."""
        return self.bits if self.curve is None else EDGE_BITS

    @property
    def limit(self) -> float:
        """A magnitude beyond which no code is needed: a Clip's bound, or where the curve is flat; inf: none."""
        return self.bound if self.curve is None else self.curve.flat_beyond

    def grid(self, log2_ymax: int, *, is_negative: bool, zero_point: int | None = None) -> QuantSpec:
        """The grid for what is rounded, up to `2**log2_ymax` and cut at the bound; is_negative: of the data.

        zero_point: of half the steps, see `QuantSpec.refined`.
        """
        signed = is_negative if self.signed is None else self.signed
        if self.curve is not None and self.curve.flat_beyond < 2.0**log2_ymax:
            log2_ymax = math.ceil(math.log2(self.curve.flat_beyond))
        spec = QuantSpec.for_range(self.rounded_bits, log2_ymax, signed=signed)
        if zero_point is not None:
            return QuantSpec.around(spec.exponent - 1, zero_point)
        if math.isinf(self.bound):
            return spec
        return replace(spec, qmax=min(spec.qmax, max(round(self.bound / spec.scale), 1)))


@dataclass
class QuantizationPlan:
    """The layers that have integers, and what each tensor and weight becomes.

    islands, tail: layers that stay float, those that lead to integers again and the others. lookups: those of which
    only codes are wanted. begins: the float values that integers begin at, each with a quantizer. unsupported: where no
    layer is one of weights, what would be.
    """

    layers: list[Layer] = field(default_factory=list)
    islands: list[Layer] = field(default_factory=list)
    lookups: list[Layer] = field(default_factory=list)
    tail: list[Layer] = field(default_factory=list)
    begins: list[ir.Value] = field(default_factory=list)
    unsupported: list[Layer] = field(default_factory=list)
    quantizers: dict[ir.Value, PlannedQuantizer] = field(default_factory=dict)
    narrowed: dict[ir.Value, PlannedQuantizer] = field(default_factory=dict)
    """Of values that are carried wider for a skip, from where they start or through carriers: what weights read, and of
    16 bits all that takes no such codes."""
    wide: set[ir.Value] = field(default_factory=set)
    """What has 16 bits."""
    weight_bits: dict[ir.Node, int] = field(default_factory=dict)
    weight_clips: dict[ir.Node, float] = field(default_factory=dict)
    """Only of layers that have a clip of their own."""
    edges: set[ir.Node] = field(default_factory=set)
    """Main nodes of the first and the last layers."""
    last: set[ir.Node] = field(default_factory=set)
    """Main nodes of the layers with int32 outputs."""
    compared: set[ir.Node] = field(default_factory=set)
    """Of these, those that have one weight scale."""

    def reads_narrow(self, layer: Layer) -> bool:
        """Whether it reads what is carried wider at the narrower width."""
        return any(value in self.narrowed and self._is_narrowed(layer, value) for value in layer.inputs)

    def narrow(self, unwidened: Mapping[ir.Value, PlannedQuantizer]) -> None:
        """Say of which of these values somebody reads the narrower codes."""
        read = {v for layer in self.layers for v in layer.inputs if v in unwidened and self._is_narrowed(layer, v)}
        self.narrowed = {value: planned for value, planned in unwidened.items() if value in read}

    def _is_narrowed(self, layer: Layer, value: ir.Value) -> bool:
        own = layer.op.takes_wide(layer.node) or layer.output in self.wide
        return layer.is_weighted or (value in self.wide and not own)

    def is_inner(self, layer: Layer) -> bool:
        """Whether it has weights, and is neither a first nor a last layer: these keep 8-bit fixed-point ones."""
        return layer.is_weighted and layer.node not in self.edges


def plan_quantization(
    graph: ir.Graph,
    *,
    weight_bits: int = 8,
    activation_bits: int = 8,
    skip_bits: int | None = None,
    layers: LayerTable = NO_OPTIONS,
) -> QuantizationPlan:
    """Plan a normalized float graph.

    Raises:
        RecipeError: a width that there is not, or an entry of `layers` that matches nothing.
    """
    _check_bits("weight_bits", weight_bits)
    _check_bits("activation_bits", activation_bits)
    _check_bits("skip_bits", skip_bits or activation_bits)
    parts = split(graph)
    plan = QuantizationPlan(parts.layers, parts.islands, parts.lookups, parts.tail, parts.begins)
    if not any(layer.role is Role.COMPUTE for layer in plan.layers):
        # What would have weights to quantize is what stands in the way.
        plan.unsupported = [layer for layer in parts.order if layer.op.role is Role.COMPUTE]
    plan.last, plan.compared = find_last(plan, parts.order)
    options = layers.of_layers(plan.layers, plan.last)
    passages = _passages(parts.order, plan)
    feeding = feeding_weights(passages)
    ends = {layer.node for layer in plan.layers if layer.is_weighted and layer.output not in feeding}
    reached = before_weights(graph.inputs, passages)
    wide = _edge_tensors(plan, ends)
    skips = on_skips(plan.layers) if skip_bits is not None else set()
    if skip_bits is None:
        told = {node for node, own in options.items() if own.activation_bits}
        plan.wide = wide_streams(plan.layers, plan.last | told) | summed_products(plan.layers, told)
    added = {value for layer in plan.layers if layer.role is Role.JOIN for value in layer.inputs}
    for value in plan.begins:
        edge = value in wide or value in reached or value not in feeding
        plan.quantizers[value] = PlannedQuantizer(value, EDGE_BITS if edge else activation_bits, None)
    signed: dict[ir.Value, bool | None] = dict.fromkeys(plan.quantizers)
    unwidened: dict[ir.Value, PlannedQuantizer] = {}
    for layer in plan.layers:
        own = options.get(layer.node, LayerOptions(layer.name))
        if layer.role is Role.COMPUTE:
            edge = layer.node in ends or layer.inputs[0] in reached or layer.interpolates
            plan.edges |= {layer.node} if edge else set()
            plan.weight_bits[layer.node] = own.weight_bits or (EDGE_BITS if edge else weight_bits)
        if own.weight_clip is not None:
            plan.weight_clips[layer.node] = own.weight_clip
        before, signed[layer.output] = _signs(layer, signed)
        function = layer.function or activation_of(layer.node)
        bound = function.bound if isinstance(function, Rectifier) else math.inf
        carries_one = layer.role is Role.CARRY and len(layer.inputs) == 1 and layer.curve is None
        if carries_one and layer.inputs[0] in unwidened and (skip_bits is not None or layer.output in plan.wide):
            planned = unwidened[layer.inputs[0]]
            unwidened[layer.output] = PlannedQuantizer(
                layer.output, planned.bits, signed[layer.output], min(bound, planned.bound)
            )
        curve = layer.curve
        is_steep = curve is not None and curve.is_steep
        if (layer.role is Role.CARRY and not is_steep) or layer.node in plan.last:
            continue
        curve = None if is_steep else curve
        branch = layer.role is Role.COMPUTE and layer.activation is None and layer.output in added
        edge = layer.output in wide or layer.output in reached or layer.output not in feeding
        bits = own.activation_bits or (EDGE_BITS if edge or branch else activation_bits)
        rounded = signed[layer.output] if curve is None else before
        planned = PlannedQuantizer(layer.output, bits, rounded, bound, curve)
        if layer.output in plan.wide:
            unwidened[layer.output], planned = planned, replace(planned, bits=WIDE_BITS)
        if skip_bits is not None and layer.output in skips and not own.activation_bits and bits < skip_bits:
            if layer.curve is None:
                unwidened[layer.output] = planned
            planned = replace(planned, bits=skip_bits)
        plan.quantizers[layer.output] = planned
    plan.narrow(unwidened)
    return plan


def _check_bits(name: str, bits: int) -> None:
    if bits not in EDGE_FORMAT.widths:
        raise RecipeError(f"{name} is {bits}, expected {EDGE_FORMAT.widths[0]} to {EDGE_FORMAT.widths[-1]}")


def _passages(order: Iterable[Layer], plan: QuantizationPlan) -> list[Passage]:
    """Those of all layers before the tail; an island, and a look-up, has one for each of its values."""
    kept = {layer.node: layer for layer in plan.layers}
    islands = {layer.node for layer in (*plan.islands, *plan.lookups)}
    found: list[Passage] = []
    for layer in order:
        if layer.node in islands:
            read = tuple(all_reads(layer))
            found += [Passage(False, read, value) for node in layer.nodes for value in node.outputs]
        elif (own := kept.get(layer.node)) is not None:
            found.append(Passage(own.is_weighted and not own.interpolates, own.inputs, own.output))
    return found


def _edge_tensors(plan: QuantizationPlan, ends: set[ir.Node]) -> set[ir.Value]:
    """What reaches a layer of `ends` through carriers and pools, up to and including the activation that starts it."""
    by_output = {layer.output: layer for layer in plan.layers}
    wide: set[ir.Value] = set()
    stack = [layer.inputs[0] for layer in plan.layers if layer.node in ends]
    while stack:
        value = stack.pop()
        wide.add(value)
        layer = by_output.get(value)
        if layer is not None and layer.role in {Role.CARRY, Role.POOL}:
            stack.extend(layer.inputs)
    return wide


def _signs(layer: Layer, signed: dict[ir.Value, bool | None]) -> tuple[bool | None, bool | None]:
    """Whether the layer's result can be negative, before and behind its activation; None: it hangs on the input."""
    constants = [bool((array < 0).any()) for array in layer.op.fixed_operands(layer.node).values()]
    sign = layer.op.sign([*(signed.get(value, True) for value in layer.op.passed(layer.node)), *constants])
    sign = True if layer.op.brings_negatives(layer.node) else sign
    return sign, sign if layer.activation is None else op_of(layer.activation).sign([sign])
