"""The weight of a Conv, Gemm or MatMul as rows `[C, K]`: output channels by what one of them sums over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from qpipe.arith.weights import from_rows, rows_along
from qpipe.nodes import int_attribute


def output_axis(node: ir.Node) -> int:
    """The axis of the weight that counts output channels: the `axis` of its QuantizeLinear."""
    return 0 if node.op_type == "Conv" or int_attribute(node, "transB", 0) else 1


def to_rows(node: ir.Node, weight: Any) -> Any:
    """The weight (numpy or torch) as `[C, K]` in the order in which integer kernels sum: channels fastest."""
    return rows_along(weight, output_axis(node))


def to_weight(node: ir.Node, rows: Any, shape: tuple[int, ...]) -> Any:
    """The inverse of `to_rows` for a weight of this shape."""
    if node.op_type == "Conv":
        return from_rows(rows, shape)
    return rows if output_axis(node) == 0 else rows.T


def is_depthwise(node: ir.Node) -> bool:
    """Whether each group has one input and one output channel: kernels then pair no products (the pair condition).

    One with several output channels a group is a product of matrices to onnxruntime, as every other grouped Conv.
    """
    shape = node.inputs[1].shape if node.op_type == "Conv" and node.inputs[1] is not None else None
    return shape is not None and has_single_channels(node, shape.dims)


def has_single_channels(node: ir.Node, shape: Sequence[int | ir.SymbolicDim]) -> bool:
    """`is_depthwise` of a Conv whose weight has this shape."""
    groups = int_attribute(node, "group", 1)
    return groups > 1 and shape[0] == groups and shape[1] == 1
