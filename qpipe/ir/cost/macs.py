"""What a network costs: multiply-accumulates for one image, and parameters."""

from __future__ import annotations

import math
from typing import Final

import onnx_ir as ir

from qpipe.nodes import constant_array, input_value, int_attribute, static_shape

WEIGHTED: Final[dict[str, tuple[int, int]]] = {
    "Conv": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (1, 2),
    "BatchNormalization": (1, 2),
    "ConvInteger": (1, 4),
    "MatMulInteger": (1, 4),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (3, 8),
    "QGemm": (3, 6),
}
"""Where these ops, and their integer forms, have their weight and their bias."""

# What may lie between a constant and the node that multiplies by it.
_CODING = frozenset({"QuantizeLinear", "Clip", "Cast", "DequantizeLinear", "DoReFaCodes", "LQCodes", "SignCodes"})


def count_macs(node: ir.Node) -> int | None:
    """Multiply-accumulates of a Conv, Gemm or MatMul (or an integer form) for one image; 0 for any other node.

    The output's first dimension is the batch. None where the shapes are unknown.
    """
    if node.op_type not in WEIGHTED or node.op_type == "BatchNormalization":
        return 0
    value = input_value(node, WEIGHTED[node.op_type][0])
    weight = None if value is None else static_shape(value)
    output = static_shape(node.outputs[0])
    if weight is None or output is None or None in weight or None in output[1:]:
        return None
    return math.prod(size for size in output[1:] if size is not None) * _summands(node, weight)


def total_macs(graph: ir.Graph) -> int | None:
    """Of all nodes, for one image; None where a shape is unknown."""
    counts = [count_macs(node) for node in graph]
    return None if None in counts else sum(count for count in counts if count is not None)


def count_parameters(graph: ir.Graph) -> int:
    """Elements of all weights and biases, each constant once; running statistics and scales don't count."""
    sizes: dict[ir.Value, int] = {}
    for node in graph:
        for index in WEIGHTED.get(node.op_type, ()):
            value = _stored(input_value(node, index))
            array = constant_array(value)
            if value is not None and array is not None:
                sizes[value] = array.size
    return sum(sizes.values())


def _summands(node: ir.Node, weight: tuple[int | None, ...]) -> int:
    """How many products one output sums."""
    if node.op_type in {"Conv", "ConvInteger", "QLinearConv"}:
        return math.prod(size for size in weight[1:] if size is not None)
    axis = -1 if node.op_type in {"Gemm", "QGemm"} and int_attribute(node, "transB", 0) else -2
    return weight[axis] or 0


def _stored(value: ir.Value | None) -> ir.Value | None:
    """The constant behind a weight that is quantized, or dequantized."""
    while value is not None and (producer := value.producer()) is not None and producer.op_type in _CODING:
        value = producer.inputs[0]
    return value
