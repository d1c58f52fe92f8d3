"""The quantized view of a QDQ graph: its layers between their quantizers.

Everything that reads a QDQ file (training, finalizing, the lowerings, the certificate) reads it through this view. A
file is *trainable* while its weights are floats behind QuantizeLinear, *final* once they are integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.arith.weights import DEFAULT_CLIP, WeightSpec, pair_limit
from qpipe.errors import LoweringError, ModelError
from qpipe.ir.attributes import constant_array, constant_input, describe, input_value
from qpipe.ir.layers import Layer, Role, group_layers
from qpipe.ir.metadata import get_object
from qpipe.ir.qdq import ActivationQuantizer, exponent_of, read_activation_quantizer
from qpipe.ir.weight_codes import signed_codes
from qpipe.ir.weight_layout import is_depthwise, output_axis

QUANTIZATION = "quantization"
"""Metadata: `weight_clip` (null: the width's own) and `cpu` ("portable" | "vnni"), for whoever trains on."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrainableWeight:
    """Float values (an initializer) on per-channel exponents `[C]`."""

    values: ir.Value
    scale: ir.Value
    exponents: IntArray
    spec: WeightSpec


@dataclass(frozen=True)
class FinalWeight:
    """What ships: codes in the node's layout, `scale[c] = multiplier[c] * 2**exponent[c]`, bias in accumulator units.

    Accumulator, bias and multiplier: `y = (acc + bias) * multiplier * 2**(l_x + exponent)`, all `[C]`.
    """

    codes: npt.NDArray[np.int8]
    bits: int
    multiplier: IntArray
    exponent: IntArray
    bias: IntArray

    @property
    def scales(self) -> npt.NDArray[np.float32]:
        """`multiplier * 2**exponent`, `[C]`, exact."""
        return (self.multiplier * np.exp2(self.exponent.astype(np.float64))).astype(np.float32)


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer between quantizers. `output` is None for a last layer, whose int32 sums leave as they are.

    op_type "QuantizeLinear" is a requantization: a quantizer that reads another one.
    """

    layer: Layer
    inputs: tuple[ActivationQuantizer, ...]
    output: ActivationQuantizer | None
    weight: TrainableWeight | FinalWeight | None = None

    @property
    def name(self) -> str:
        """The main node's name."""
        return self.layer.name

    @property
    def op_type(self) -> str:
        """ONNX op of the main node."""
        return self.layer.op_type

    @property
    def node(self) -> ir.Node:
        """The main node."""
        return self.layer.node

    @property
    def result(self) -> ir.Value:
        """What the next layers read: the dequantized output, or a last layer's float output."""
        return self.layer.output if self.output is None else self.output.output


@dataclass
class View:
    """The quantized part of the graph in topological order, and the float tail behind it."""

    graph: ir.Graph
    inputs: list[ActivationQuantizer] = field(default_factory=list)
    layers: list[QuantizedLayer] = field(default_factory=list)
    tail: list[Layer] = field(default_factory=list)

    @property
    def is_final(self) -> bool:
        """Whether no layer can be trained any more."""
        return all(
            not isinstance(layer.weight, TrainableWeight) and layer.layer.batch_norm is None
            and layer.op_type != "BatchNormalization" for layer in self.layers
        )  # fmt: skip

    @property
    def results(self) -> list[ir.Value]:
        """What leaves the quantized part, in the order of the graph outputs that it is or leads to."""
        return leading_to(self.graph.outputs, {layer.result for layer in self.layers})


def leading_to(outputs: Iterable[ir.Value], candidates: Set[ir.Value]) -> list[ir.Value]:
    """Going back from each output in turn, the first of the candidates on every path."""
    found: dict[ir.Value, None] = {}
    stack, seen = list(outputs)[::-1], set()
    while stack:
        value = stack.pop()
        producer = value.producer()
        if value in candidates:
            found[value] = None
        elif value not in seen and producer is not None:
            stack.extend(v for v in reversed(producer.inputs) if v is not None)
        seen.add(value)
    return list(found)


def read_view(model: ir.Model) -> View:
    """Read a QDQ graph; ModelError names what is not of the form that calibration writes."""
    graph = model.graph
    quantizers, skip = _read_quantizers(graph)
    by_output = {quantizer.output: quantizer for quantizer in quantizers}
    by_source: dict[ir.Value, list[ActivationQuantizer]] = {}
    for quantizer in quantizers:
        by_source.setdefault(quantizer.source, []).append(quantizer)
    view = View(graph, inputs=[q for q in quantizers if q.source.is_graph_input()])
    if not view.inputs:
        raise ModelError(
            "not a quantized model: no QuantizeLinear reads the graph's input; run `qpipe calibrate` first"
        )
    for layer in group_layers(graph, skip):
        inputs = [by_output.get(value) for value in layer.inputs]
        outputs = by_source.get(layer.output, [])
        is_quantized = all(inputs) and (outputs or (layer.role is Role.COMPUTE and layer.activation is None))
        if not is_quantized or layer.role is Role.NONE:
            if outputs:
                raise ModelError(f"{describe(layer.node)}: float between quantizers, and it has no integer form")
            view.tail.append(layer)
            continue
        _check_output(layer, outputs)
        known = tuple(q for q in inputs if q is not None)
        weight = _read_weight(model, layer, known[0]) if layer.role is Role.COMPUTE else None
        view.layers.append(QuantizedLayer(layer, known, outputs[0] if outputs else None, weight))
        view.layers.extend(_requantizations(outputs, by_source))
    view.layers[:0] = _requantizations(view.inputs, by_source)
    return view


def read_final_view(model: ir.Model) -> View:
    """Read a QDQ graph that is finalized; LoweringError on another."""
    view = read_view(model)
    if not view.is_final:
        raise LoweringError("the model is not finalized; run finalize first")
    return view


def _read_quantizers(graph: ir.Graph) -> tuple[list[ActivationQuantizer], frozenset[ir.Node]]:
    """All activation quantizers in order, and all nodes that quantizers (of weights too) are made of."""
    quantizers, skip = [], set()
    for node in graph:
        if node.op_type != "DequantizeLinear":
            continue
        quantizer = read_activation_quantizer(node)
        if quantizer is not None:
            quantizers.append(quantizer)
        skip.add(node)
        value = node.inputs[0]
        while value is not None and (producer := value.producer()) is not None:
            skip.add(producer)
            if producer.op_type == "QuantizeLinear":
                break
            value = producer.inputs[0]
    return quantizers, frozenset(skip)


def _check_output(layer: Layer, outputs: list[ActivationQuantizer]) -> None:
    if len(outputs) > 1:
        raise ModelError(f"{describe(layer.node)}: {len(outputs)} quantizers read its output, expected one")
    if not outputs and (layer.batch_norm is not None or layer.op_type == "BatchNormalization"):
        raise ModelError(f"{describe(layer.node)}: no quantizer after its BatchNormalization, expected one")


def _requantizations(
    quantizers: list[ActivationQuantizer], by_source: dict[ir.Value, list[ActivationQuantizer]]
) -> Iterator[QuantizedLayer]:
    """Quantizers that read one of these, directly or through another one."""
    for first in quantizers:
        for second in by_source.get(first.output, []):
            yield QuantizedLayer(Layer(_quantize_node(second)), (first,), second)
            yield from _requantizations([second], by_source)


def _quantize_node(quantizer: ActivationQuantizer) -> ir.Node:
    node = next(
        (node for node, index in quantizer.source.uses() if node.op_type == "QuantizeLinear" and index == 0
         and (node.outputs[0] is quantizer.codes or quantizer.codes.producer() in node.successors())), None,
    )  # fmt: skip
    assert node is not None
    return node


def _read_weight(model: ir.Model, layer: Layer, source: ActivationQuantizer) -> TrainableWeight | FinalWeight | None:
    if layer.op_type == "BatchNormalization":
        return None
    dequantize = layer.node.inputs[1].producer() if layer.node.inputs[1] is not None else None
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        raise ModelError(f"{describe(layer.node)}: its weight is not quantized, expected a DequantizeLinear")
    scales = constant_input(dequantize, 1)
    codes = dequantize.inputs[0]
    if scales is None or codes is None:
        raise ModelError(f"{describe(dequantize)}: expected constant scales")
    producer = codes.producer()
    if producer is None or producer.op_type == "Cast":
        return _final_weight(layer, codes, scales)
    return _trainable_weight(model, layer, dequantize, source)


def _trainable_weight(
    model: ir.Model, layer: Layer, dequantize: ir.Node, source: ActivationQuantizer
) -> TrainableWeight:
    clip = dequantize.inputs[0].producer() if dequantize.inputs[0] is not None else None
    high = constant_input(clip, 2) if clip is not None and clip.op_type == "Clip" else None
    quantize = clip.inputs[0].producer() if clip is not None and clip.inputs[0] is not None else None
    values = quantize.inputs[0] if quantize is not None and quantize.op_type == "QuantizeLinear" else None
    scale = input_value(dequantize, 1)
    if high is None or values is None or scale is None or constant_array(values) is None:
        raise ModelError(f"{describe(dequantize)}: expected float weights behind QuantizeLinear and Clip")
    scales = constant_array(scale)
    assert scales is not None
    bits = int(high.reshape(-1)[0]).bit_length() + 1
    options = get_object(model, QUANTIZATION) or {}
    waived = options.get("cpu") == "vnni" or is_depthwise(layer.node)
    clip_at = options.get("weight_clip")
    spec = WeightSpec(
        bits=bits,
        clip=float(clip_at) if isinstance(clip_at, int | float) else DEFAULT_CLIP[bits],
        per_channel=scales.ndim > 0,
        pair_limit=None if waived else pair_limit(source.spec.stored_max),
    )
    exponents = [exponent_of(dequantize, float(s)) for s in scales.reshape(-1)]
    if scales.ndim == 0:
        exponents = exponents * _channels(layer, constant_array(values))
    return TrainableWeight(values, scale, np.array(exponents, np.int64), spec)


def _final_weight(layer: Layer, codes: ir.Value, scales: npt.NDArray[np.generic]) -> FinalWeight:
    producer = codes.producer()
    stored = producer.inputs[0] if producer is not None else codes
    array = constant_array(stored)
    if array is None or stored is None:
        raise ModelError(f"{describe(layer.node)}: its weight's codes are no constant")
    count = _channels(layer, array)
    multiplier, exponent = split_scale(scales.astype(np.float64).reshape(-1) * np.ones(count))
    bias = np.zeros(count, np.int64)
    bias_value = input_value(layer.node, 2)
    if bias_value is not None:
        dequantize = bias_value.producer()
        bias_codes = constant_input(dequantize, 0) if dequantize is not None else None
        if bias_codes is None:
            raise ModelError(f"{describe(layer.node)}: its bias is not the DequantizeLinear of an int32 constant")
        bias = bias_codes.astype(np.int64)
    bits = 4 if stored.dtype == ir.DataType.INT4 else 8
    zero_point = constant_input(layer.node.inputs[1].producer(), 2)  # type: ignore[union-attr,arg-type]
    return FinalWeight(signed_codes(array, zero_point), bits, multiplier, exponent, bias)


def _channels(layer: Layer, weight: npt.NDArray[np.generic] | None) -> int:
    assert weight is not None
    return int(weight.shape[output_axis(layer.node)])


def split_scale(scales: npt.NDArray[np.float64]) -> tuple[IntArray, IntArray]:
    """`scale = m * 2**e` with an odd m, exactly; ModelError where m needs more than 8 bits."""
    mantissa, exponent = np.frexp(scales)
    m, e = np.ldexp(mantissa, 8), exponent - 8
    if np.any(m != np.round(m)) or np.any(scales <= 0):
        raise ModelError(f"weight scale {scales.min():g}, expected an 8-bit integer times a power of two")
    whole = m.astype(np.int64)
    zeros = np.log2(whole & -whole).astype(np.int64)
    return whole >> zeros, e.astype(np.int64) + zeros
