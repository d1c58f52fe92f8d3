"""Take constant Mul, Add, Sub, Div and Neg into the weights and the bias of what they alone read.

    f (W x + b) + o  =  (f W) x + (f b + o)                  Conv, ConvTranspose, Gemm, MatMul, f and o per channel
    f (k (x - mean) + beta) + o  =  (f k) (x - mean) + (f beta + o)                           BatchNormalization
    MatMul(x [M, K], w [K, N]) + o [N]  =  Gemm(x, w, o)

Between the layer and the map there may be what only moves numbers (Reshape, Flatten, Transpose, ...): f and o are read
in the layer's own axes. A MatMul of three dimensions holds no bias: that is left to `flatten-linear`. (Jacob et al.
2018, section 3.2, is the case of a BatchNormalization written as a Mul and an Add.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import bypass, only_reader, rewrite
from qpipe.nodes import constant_input, int_attribute, set_constant_input
from qpipe.ops.constant_affine import LARGEST_FLOAT32, OP_TYPES, ConstantAffine, constant_affine
from qpipe.ops.constant_linear import constant_linear


@dataclass(frozen=True, kw_only=True)
class FoldAffineBack(ir.passes.InPlacePass):
    """Each map by constants, per output channel, that alone reads a layer of constant weights.

    The weight must be constant, so a Q/DQ pair is never crossed. Others that read the same tensor of weights keep it.
    """

    name: ClassVar[str] = "fold-affine-back"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold every match, in the order of the graph: of several in a row each finds the layer."""
        return rewrite(model, OP_TYPES, _try_fold)


def _try_fold(graph: ir.Graph, node: ir.Node) -> bool:
    found = affine = constant_affine(node)
    reader = node
    while found is not None and affine is not None:
        layer = affine.x.producer()
        if layer is None or layer.graph is not graph or only_reader(affine.x) is not reader:
            return False
        if _fold_into_product(graph, layer, affine) or _fold_into_batch_norm(layer, affine):
            bypass(node, found.x)
            return True
        reader, affine = layer, affine.before(layer)
    return False


def _fold_into_product(graph: ir.Graph, layer: ir.Node, affine: ConstantAffine) -> bool:
    product = constant_linear(layer)
    along = None if product is None else affine.along(product.axis, product.outputs)
    if product is None or along is None or not (affine.is_factor or product.takes_bias()):
        return False
    factor, offset = along
    weight = product.weight if affine.is_offset else product.scale_outputs(factor)
    bias = product.bias
    if bias is not None or not affine.is_factor:
        bias = offset if bias is None else bias * factor + offset
    if not product.can_store(weight, bias):
        return False
    product.store(graph, weight, bias)
    return True


def _fold_into_batch_norm(layer: ir.Node, affine: ConstantAffine) -> bool:
    if layer.op_type != "BatchNormalization" or layer.domain != "" or int_attribute(layer, "training_mode", 0):
        return False
    gamma, beta = constant_input(layer, 1), constant_input(layer, 2)
    along = None if gamma is None else affine.along(1, gamma.size)
    if gamma is None or beta is None or along is None:
        return False
    factor, offset = along
    for index, array in ((1, gamma * factor), (2, beta * factor + offset)):
        if np.abs(array).max(initial=0) > LARGEST_FLOAT32:
            return False
        set_constant_input(layer, index, array.astype(np.float32))
    return True
