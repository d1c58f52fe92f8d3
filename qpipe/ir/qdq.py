"""Write and read quantizers of a QDQ graph: QuantizeLinear, a Clip where the range is narrower, DequantizeLinear.

Activations are uint8, weights int8 along their output channels. Weights of 4 bits and fewer that are final are packed
(see `qpipe.ir.weight_codes`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.arith.codes import AnyWeightSpec
from qpipe.arith.dorefa import DoReFaSpec
from qpipe.arith.spec import SIGNED_ZERO_POINT, STORAGE_MAX, QuantSpec
from qpipe.errors import ModelError
from qpipe.ir.attributes import constant_array, constant_input, describe, input_value
from qpipe.ir.quantizer_functions import DOREFA, call_function
from qpipe.ir.weight_layout import output_axis

AnyArray = npt.NDArray[np.generic]


@dataclass(frozen=True)
class ActivationQuantizer:
    """`source` (float) becomes `codes` (uint8, after the Clip) on `spec`; `output` is what float consumers read."""

    source: ir.Value
    codes: ir.Value
    output: ir.Value
    spec: QuantSpec


def initializer(graph: ir.Graph, name: str, array: AnyArray | np.generic | ir.TensorProtocol) -> ir.Value:
    """Register a constant under a name that is made unique."""
    unique, count = name, 0
    while unique in graph.initializers:
        count += 1
        unique = f"{name}_{count}"
    tensor = ir.tensor(array, name=unique) if isinstance(array, np.ndarray | np.generic) else array
    value = ir.Value(
        name=unique, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )  # fmt: skip
    tensor.name = unique
    graph.register_initializer(value)
    return value


def replace_constant(value: ir.Value, array: AnyArray) -> None:
    """Give an initializer another tensor."""
    value.const_value = ir.tensor(np.array(array, order="C"), name=value.name)
    value.shape = ir.Shape(array.shape)


def set_constant_input(node: ir.Node, index: int, array: AnyArray) -> None:
    """Replace a node's constant; where others read it too (exporters share equal ones), by one of its own."""
    value = input_value(node, index)
    assert value is not None
    if len(value.uses()) > 1 and isinstance(node.graph, ir.Graph):
        node.replace_input_with(index, initializer(node.graph, f"{node.name}_{value.name}", np.array(array)))
    else:
        replace_constant(value, array)


def insert_activation_quantizer(
    graph: ir.Graph,
    value: ir.Value,
    spec: QuantSpec,
    *,
    only: ir.Node | None = None,
    replaces: ir.Node | None = None,
    suffix: str = "",
    meltable: bool = False,
) -> None:
    """Put a quantizer behind `value`, for all its readers or for the node `only`; `replaces` is a float Clip to drop.

    onnxruntime melts two quantizers in a row into one, which rounds otherwise. A Clip of the integers, though it cuts
    nothing, keeps one that is meant for `only` apart; `meltable` says that this one may go.
    """
    base = f"{value.name}/{suffix}" if suffix else f"{value.name}"
    uses = [(node, index) for node, index in value.uses() if only is None or node is only]
    source = value if replaces is None else replaces.inputs[0]
    assert source is not None
    shape, dtype = value.shape, ir.TensorType(ir.DataType.UINT8)
    scale = initializer(graph, f"{base}_scale", np.float32(spec.scale))
    zero_point = initializer(graph, f"{base}_zero_point", np.uint8(spec.zero_point))
    nodes = [ir.node("QuantizeLinear", [source, scale, zero_point], name=f"{base}_quantize")]
    _describe(nodes[-1].outputs[0], f"{base}_codes", dtype, shape)
    if spec.needs_clip or (only is not None and not meltable):
        low = initializer(graph, f"{base}_min", np.uint8(spec.stored_min))
        high = initializer(graph, f"{base}_max", np.uint8(spec.stored_max))
        nodes.append(ir.node("Clip", [nodes[-1].outputs[0], low, high], name=f"{base}_clip"))
        _describe(nodes[-1].outputs[0], f"{base}_clipped", dtype, shape)
    nodes.append(ir.node("DequantizeLinear", [nodes[-1].outputs[0], scale, zero_point], name=f"{base}_dequantize"))
    output = nodes[-1].outputs[0]
    _describe(output, f"{base}_dequantized", ir.TensorType(ir.DataType.FLOAT), shape)
    producer = source.producer()
    if producer is None:
        graph.insert_before(graph[0], nodes)
    else:
        graph.insert_after(producer, nodes)
    for node, index in uses:
        node.replace_input_with(index, output)
    if value.is_graph_output() and only is None:
        _move_graph_output(graph, value, output)
    if replaces is not None:
        graph.remove(replaces, safe=True)


def insert_weight_quantizer(
    model: ir.Model,
    node: ir.Node,
    stored: npt.NDArray[np.float32],
    exponents: npt.NDArray[np.int64],
    spec: AnyWeightSpec,
) -> None:
    """Replace a node's weight by float values behind QuantizeLinear, Clip to the narrow range and DequantizeLinear.

    A quantizer that is not affine stands there as a function instead (see `qpipe.ir.quantizer_functions`).
    """
    graph = model.graph
    base = str(node.name)
    weight = initializer(graph, f"{base}_weight", stored)
    scales = np.ldexp(np.float32(1), exponents.astype(np.int32))
    scale = initializer(graph, f"{base}_weight_scale", scales if spec.per_channel else scales[0])
    zero_point = initializer(
        graph, f"{base}_weight_zero_point", np.zeros(scale.shape.numpy() if scale.shape else (), np.int8)
    )
    axis = {"axis": output_axis(node)} if spec.per_channel else {}
    nodes = _weight_codes(model, base, weight, scale, zero_point, axis, spec)
    dequantize = ir.node(
        "DequantizeLinear", [nodes[-1].outputs[0], scale, zero_point], axis, name=f"{base}_weight_dequantize"
    )
    for new, name, dtype in zip(
        (*nodes, dequantize), (*("codes", "clipped")[: len(nodes)], "dequantized"),
        (*[ir.DataType.INT8] * len(nodes), ir.DataType.FLOAT), strict=True,
    ):  # fmt: skip
        _describe(new.outputs[0], f"{base}_weight_{name}", ir.TensorType(dtype), ir.Shape(stored.shape))
    graph.insert_before(node, [*nodes, dequantize])
    old = node.inputs[1]
    node.replace_input_with(1, dequantize.outputs[0])
    if old is not None and not old.uses() and old.is_initializer():
        del graph.initializers[str(old.name)]


def _weight_codes(
    model: ir.Model, base: str, weight: ir.Value, scale: ir.Value, zero_point: ir.Value, axis: dict[str, int],
    spec: AnyWeightSpec,
) -> list[ir.Node]:  # fmt: skip
    """The nodes from float weights to int8 codes."""
    if isinstance(spec, DoReFaSpec):
        return [call_function(model, DOREFA, weight, spec.bits, f"{base}_weight_dorefa")]
    quantize = ir.node("QuantizeLinear", [weight, scale, zero_point], axis, name=f"{base}_weight_quantize")
    low = initializer(model.graph, f"{base}_weight_min", np.int8(-spec.qmax))
    high = initializer(model.graph, f"{base}_weight_max", np.int8(spec.qmax))
    return [quantize, ir.node("Clip", [quantize.outputs[0], low, high], name=f"{base}_weight_clip")]


def read_activation_quantizer(dequantize: ir.Node) -> ActivationQuantizer | None:
    """The quantizer that ends in this DequantizeLinear; None if it is a weight's or a bias's.

    ModelError names the node whose scale is no power of two, or whose form is another.
    """
    codes = dequantize.inputs[0]
    producer = codes.producer() if codes is not None else None
    bounds = (0, STORAGE_MAX)
    if codes is None or producer is None:
        return None
    if producer.op_type == "Clip" and producer.inputs[0] is not None:
        bounds = (_scalar(producer, 1), _scalar(producer, 2))
        producer = producer.inputs[0].producer()
    if producer is None or producer.op_type != "QuantizeLinear" or constant_array(producer.inputs[0]) is not None:
        return None
    source, scale, zero_point = producer.inputs[0], constant_input(producer, 1), constant_input(producer, 2)
    if source is None or scale is None or scale.size != 1 or zero_point is None or zero_point.dtype != np.uint8:
        raise ModelError(f"{describe(producer)}: expected one constant scale and a uint8 zero point")
    zero = int(zero_point.reshape(-1)[0])
    if zero not in {0, SIGNED_ZERO_POINT}:
        raise ModelError(f"{describe(producer)}: zero point {zero}, expected 0 or {SIGNED_ZERO_POINT}")
    spec = QuantSpec(exponent_of(producer, float(scale.reshape(-1)[0])), bounds[0] - zero, bounds[1] - zero, zero)
    return ActivationQuantizer(source, codes, dequantize.outputs[0], spec)


def exponent_of(node: ir.Node, scale: float) -> int:
    """log2 of a power-of-two scale; ModelError that names the node for any other."""
    mantissa, exponent = math.frexp(scale)
    if mantissa != 0.5:
        raise ModelError(f"{describe(node)}: scale {scale:g}, expected a power of two")
    return exponent - 1


def _scalar(node: ir.Node, index: int) -> int:
    array = constant_input(node, index)
    if array is None or array.size != 1:
        raise ModelError(f"{describe(node)}: expected constant bounds")
    return int(array.reshape(-1)[0])


def _describe(value: ir.Value, name: str, dtype: ir.TypeProtocol, shape: ir.Shape | None) -> None:
    value.name, value.type = name, dtype
    value.shape = None if shape is None else shape.copy()


def _move_graph_output(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let `new` be the graph output, under the name that it has outside."""
    graph.outputs[list(graph.outputs).index(old)] = new
    old.name, new.name = f"{old.name}/float", old.name
