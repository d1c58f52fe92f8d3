"""The operations of a forward pass on one image: in float, and as the integers of an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from qpipe.ir.cost.network import CountedLayer, CountedNetwork
from qpipe.ir.cost.operations import FLOAT32, INT32, Integer, Operations
from qpipe.ir.cost.parts import BIAS, FORWARD, Part, Tally, name_of
from qpipe.ir.quantized.plan import QuantizationPlan
from qpipe.ir.quantized.view import View, is_final, is_trainable
from qpipe.ops import Role
from qpipe.ops.work import Work

CODE: Final = Integer(8)
"""An activation as it is stored, whatever its width; and a multiplier, which is an output channel's part of a scale."""
CLIP: Final = Work(compare=2)
QUANTIZED: Final = Work(multiply=1, add=1, compare=2)
"""A number of the input: divided, rounded, clipped."""


@dataclass(frozen=True)
class IntegerLayer:
    """A layer as integers. weight_bits, activation_bits: of the factors where it multiplies by weights, else None.

    is_rounded: whether its result is brought to another grid.
    """

    weight_bits: int | None
    activation_bits: int | None
    is_rounded: bool


IntegerLayers = Mapping[ir.Node, IntegerLayer]
"""By their main nodes; what is not in it stays float."""


def planned_layers(plan: QuantizationPlan) -> IntegerLayers:
    """What calibration would make of a float network."""
    found: dict[ir.Node, IntegerLayer] = {}
    bits = {value: planned.bits for value, planned in plan.quantizers.items()}
    for layer in plan.layers:
        source = layer.inputs[0]
        width = plan.narrowed[source].bits if source in plan.narrowed else bits.get(source)
        found[layer.node] = IntegerLayer(plan.weight_bits.get(layer.node), width, layer.output in plan.quantizers)
        # A carrier has its input's grid.
        if width is not None:
            bits.setdefault(layer.output, width)
    return found


def viewed_layers(view: View) -> IntegerLayers:
    """What a QDQ file is."""
    found: dict[ir.Node, IntegerLayer] = {}
    for layer in view.layers:
        weight_bits = None
        if is_trainable(layer):
            weight_bits = layer.weight.format.code_bits
        elif is_final(layer):
            weight_bits = layer.weight.bits
        is_rounded = layer.quantizer is not None and (
            layer.role is not Role.CARRY or layer.curve is not None or layer.op.rounds(layer.node)
        )
        found[layer.node] = IntegerLayer(weight_bits, layer.sources[0].grid.bits, is_rounded)
    return found


def float_inference(network: CountedNetwork) -> tuple[Part, ...]:
    """In float32; a BatchNormalization that belongs to a layer is in its weights and its bias, as runtimes fold it."""
    tally = Tally()
    for layer in network.layers:
        _in_float(tally, layer)
    return tally.parts


def integer_inference(network: CountedNetwork, layers: IntegerLayers) -> tuple[Part, ...]:
    """As the integers that ship (docs/numbers.md): narrow factors, int32 sums, one requantization of each result.

    An activation behind a layer is in the clip of its requantization, or in a table, whose look-up is no arithmetic.
    """
    tally = Tally()
    tally.add_work("quantize the input", FORWARD, network.inputs, QUANTIZED, FLOAT32)
    for layer in network.layers:
        form = layers.get(layer.layer.node)
        if form is None:
            _in_float(tally, layer)
            continue
        _integers(tally, layer, form)
        if form.is_rounded:
            _requantize(tally, layer)
    return tally.parts


def _in_float(tally: Tally, layer: CountedLayer) -> None:
    if layer.product is not None:
        operations, macs = Operations(), layer.product.macs
        operations.put_work(macs, Work(multiply=1, add=1), FLOAT32)
        tally.add(name_of(layer), FORWARD, layer.product.outputs, operations, macs=macs)
    for node in layer.nodes:
        work = Work(add=1) if node.node is layer.layer.batch_norm else node.work.forward
        name = BIAS if layer.product and node.node is layer.layer.node else node.node.op_type
        tally.add_work(name, FORWARD, node.elements, work, FLOAT32)


def _integers(tally: Tally, layer: CountedLayer, form: IntegerLayer) -> None:
    """What a layer computes before it is rounded."""
    operations, sizes, own = Operations(), layer.product, layer.layer
    if sizes is not None and form.weight_bits is not None and form.activation_bits is not None:
        operations.put(sizes.macs, "multiply", Integer(form.activation_bits), Integer(form.weight_bits))
        # The bias is one more summand.
        operations.put(sizes.macs + sizes.outputs, "add", INT32)
        tally.add(name_of(layer), FORWARD, sizes.outputs, operations, macs=sizes.macs)
    elif own.curve is None or own.activation is not None:
        for node in layer.nodes[:1]:
            if own.is_batch_norm:
                operations.put(node.elements, "multiply", CODE)
                operations.put(node.elements, "add", INT32)
            else:
                operations.put_work(node.elements, node.work.forward, CODE if own.role is Role.CARRY else INT32)
            if own.op.is_sum:
                # The coarser operand is brought to the finer one's grid.
                operations.put(node.elements, "shift", INT32)
            tally.add(own.op_type, FORWARD, node.elements, operations)


def _requantize(tally: Tally, layer: CountedLayer) -> None:
    """A channel's multiplier where there are weights; then half a step is added, and the sum shifted and clipped."""
    operations, count = Operations(), layer.elements
    if layer.product is not None:
        operations.put(count, "multiply", INT32, CODE)
    operations.put(count, "add", INT32)
    operations.put(count, "shift", INT32)
    operations.put_work(count, CLIP, INT32)
    tally.add("requantize", FORWARD, count, operations)
