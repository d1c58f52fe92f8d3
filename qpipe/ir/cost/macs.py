"""What a network costs: multiply-accumulates for one image, and parameters."""

from __future__ import annotations

import math

import onnx_ir as ir

from qpipe.nodes import constant_array, input_value, static_shape
from qpipe.ops import Product, op_of, trained_operands
from qpipe.ops.quantizer_parts import stored
from qpipe.ops.recurrent import sequence_macs


def count_macs(node: ir.Node) -> int | None:
    """Multiply-accumulates of a Conv, Gemm or MatMul (or an integer form) for one image; 0 for any other node.

    Of a recurrent layer those of a whole sequence. The output's first dimension is the batch. None where the shapes are
    unknown.
    """
    sequence = sequence_macs(node)
    if sequence != 0:
        return sequence
    op, operands = trained_operands(node) or (None, None)
    output = static_shape(node.outputs[0])
    if not isinstance(op, Product) or operands is None:
        each = op_of(node).macs(node)
        if each == 0:
            return 0
        if each is None or output is None or None in output[1:]:
            return None
        return math.prod(size for size in output[1:] if size is not None) * each
    value = input_value(node, operands.weight)
    weight = None if value is None else static_shape(value)
    # Of an integer product of two activations the second has a batch as well, which no count hangs on.
    if weight is None or output is None or None in weight[1:] or None in weight[-2:] or None in output[1:]:
        return None
    if len(weight) < 2:  # computed by the graph, of a rank that onnx's inference lets pass
        return None
    return math.prod(size for size in output[1:] if size is not None) * op.summands(node, weight)


def total_macs(graph: ir.Graph) -> int | None:
    """Of all nodes, for one image; None where a shape is unknown."""
    counts = [count_macs(node) for node in graph]
    return None if None in counts else sum(count for count in counts if count is not None)


def count_parameters(graph: ir.Graph) -> int:
    """Elements of all weights and biases, each constant once; running statistics and scales don't count."""
    sizes: dict[ir.Value, int] = {}
    for node in graph:
        _, operands = trained_operands(node) or (None, None)
        for index in () if operands is None else (operands.weight, operands.bias):
            value = stored(input_value(node, index))
            array = constant_array(value)
            if value is not None and array is not None:
                sizes[value] = array.size
    return sum(sizes.values())
