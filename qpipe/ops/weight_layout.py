"""How a product's node stores its weight, as the product's op says it."""

from __future__ import annotations

import onnx_ir as ir

from qpipe.arith.namespace import A
from qpipe.ops import product_of


def output_axis(node: ir.Node) -> int:
    """The axis of the weight that counts output channels: the `axis` of its QuantizeLinear."""
    return product_of(node).output_axis(node)


def to_rows(node: ir.Node, weight: A) -> A:
    """The weight (numpy or torch) as `[C, K]` in the order in which integer kernels sum: channels fastest."""
    return product_of(node).to_rows(node, weight)


def to_weight(node: ir.Node, rows: A, shape: tuple[int, ...]) -> A:
    """The inverse of `to_rows` for a weight of this shape."""
    return product_of(node).to_weight(node, rows, shape)


def is_depthwise(node: ir.Node) -> bool:
    """Whether each group has one input and one output channel: kernels then pair no products (the pair condition)."""
    return product_of(node).is_depthwise(node)
