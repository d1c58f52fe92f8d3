"""What the ops of two activations have in common: operands that are broadcast, as int32 in one layout."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.arith.symbolic import INT32, UINT8, Symbol
from qpipe.nodes import rank
from qpipe.ops.base import Refusal

if TYPE_CHECKING:
    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder, Layout


def rank_refusal(node: ir.Node) -> Refusal | None:
    """Axes are matched from the last one: of fewer, the first axis of one operand would meet another one's images."""
    ranks = {found for value in node.inputs if (found := rank(value)) is not None}
    if len(ranks) < 2:
        return None
    return Refusal(f"its operands have {min(ranks)} and {max(ranks)} dimensions: unsqueeze the one that has fewer")


def operand_terms(layer: RequantizedLayer, b: IntegerBuilder) -> tuple[Layout, list[Symbol]]:
    """The layout that the operands meet in, and their integers without zero points, int32."""
    layout = b.common_layout(layer.sources)
    terms = [
        b.symbol(b.codes(q, layout), q.codes, layout, UINT8).astype(INT32) - q.grid.zero_point for q in layer.sources
    ]
    return layout, terms


def ends_of_product(layer: RequantizedLayer) -> tuple[int, int]:
    """The smallest and the largest product of two operands' integers."""
    ends = ((q.grid.qmin, q.grid.qmax) for q in layer.sources)
    products = [a * b for a, b in itertools.product(*ends)]
    return min(products), max(products)
