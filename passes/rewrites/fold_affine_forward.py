"""Take constant Mul, Add, Sub, Div and Neg into the weights and the biases of the layers that read them.

    W (f x + o) + b  =  (W f) x + (W o + b)                             Conv, ConvTranspose, Gemm, MatMul, per channel

o only where each sum has all of its taps on x: on padding, which is 0 behind the map, W o is less. Between the map and
the layers there may be what only moves numbers; f and o are read in each layer's own axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.arith.namespace import Float64Array
from qpipe.ir.graph.rewrite import rewrite
from qpipe.ops.constant_affine import OP_TYPES, ConstantAffine, constant_affine
from qpipe.ops.constant_linear import ConstantLinear, constant_linear


@dataclass(frozen=True, kw_only=True)
class FoldAffineForward(ir.passes.InPlacePass):
    """Each map by constants, per channel, that nothing but layers of constant weights reads."""

    name: ClassVar[str] = "fold-affine-forward"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold every match, the last in the graph first: of several in a row each finds the layers."""
        return rewrite(model, OP_TYPES, _try_fold, backwards=True)


def _try_fold(graph: ir.Graph, node: ir.Node) -> bool:
    affine = constant_affine(node)
    folds = None if affine is None else _readers(graph, node.outputs[0], affine)
    if affine is None or not folds:
        return False
    for product, weight, bias in folds:
        product.store(graph, weight, bias)
    node.outputs[0].replace_all_uses_with(affine.x)
    graph.remove(node, safe=True)
    return True


Fold = tuple[ConstantLinear, Float64Array, Float64Array | None]


def _readers(graph: ir.Graph, value: ir.Value, affine: ConstantAffine) -> list[Fold] | None:
    """What each layer that reads the map's result is to hold; None where one of them can't."""
    if value.is_graph_output():
        return None
    found: list[Fold] = []
    for use in value.uses():
        if use.node.graph is not graph or use.idx != 0:
            return None
        fold = _fold(use.node, affine)
        if fold is not None:
            found.append(fold)
            continue
        behind = affine.behind(use.node)
        more = None if behind is None else _readers(graph, use.node.outputs[0], behind)
        if more is None:
            return None
        found += more
    return found


def _fold(node: ir.Node, affine: ConstantAffine) -> Fold | None:
    product = constant_linear(node)
    along = None if product is None else affine.along(product.axis, product.inputs)
    if product is None or along is None:
        return None
    if not affine.is_factor and not (product.sees_all and product.takes_bias()):
        return None
    factor, offset = along
    weight = product.weight if affine.is_offset else product.scale_inputs(factor)
    bias = product.bias
    if not affine.is_factor:
        bias = product.sums_of(offset) if bias is None else bias + product.sums_of(offset)
    return (product, weight, bias) if product.can_store(weight, bias) else None
