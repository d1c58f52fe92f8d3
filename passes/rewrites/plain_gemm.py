"""Write a Gemm as `x w + b`, which is the form that has integers, and a MatMul by constants with the constants second.

    Gemm(x, w, b, alpha, beta)      =  Gemm(x, alpha w, beta b)
    Gemm(x, w, transA = 1)          =  Gemm(Transpose(x), w)
    Gemm(x, w, b [M, N])            =  Add(Gemm(x, w), b)                       a bias for each row is none of a channel
    Gemm(x, y, c, alpha)            =  Add(Mul(MatMul(x, y), alpha), c)         of two activations
    MatMul(w [..., M, K], x [..., K, N])  =  Transpose(MatMul(Transpose(x), w^T))     the last two axes exchanged
    MatMul(x, w [1, ..., K, N])     =  MatMul(x, w [K, N])                      where x has as many axes

alpha and beta are multiplied in float64 and rounded once; with powers of two every bit stays. Source: ONNX operator
specification, Gemm-13 and MatMul-13.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray
from qpipe.ir.files.infer import infer_shapes
from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import (
    constant_array,
    constant_input,
    float_attribute,
    initializer,
    input_value,
    int_attribute,
    rank,
    set_constant_input,
)
from qpipe.ops.constant_affine import LARGEST_FLOAT32
from qpipe.ops.quantizer_parts import stored


@dataclass(frozen=True, kw_only=True)
class PlainGemm(ir.passes.InPlacePass):
    """Every Gemm, and every MatMul of which one operand is constant."""

    name: ClassVar[str] = "plain-gemm"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every match, and infer the shapes of what is new."""
        gemms = rewrite(model, {"Gemm"}, _try_gemm)
        products = rewrite(model, {"MatMul"}, _try_matmul)
        if gemms.modified or products.modified:
            infer_shapes(model)
        return ir.passes.PassResult(model, gemms.modified or products.modified)


def _try_gemm(graph: ir.Graph, node: ir.Node) -> bool:
    if constant_array(stored(node.inputs[1])) is None or constant_array(node.inputs[0]) is not None:
        return _try_product(graph, node)
    if constant_input(node, 1) is None:
        return False
    scaled = [_scale(node, index, name) for index, name in ((1, "alpha"), (2, "beta"))]
    turned = bool(int_attribute(node, "transA", 0))
    if turned:
        transpose = _transpose(graph, node, node.inputs[0], [1, 0], "operand")
        node.replace_input_with(0, transpose.outputs[0])
        del node.attributes["transA"]
    return _try_rows(graph, node) or turned or any(scaled)


def _try_product(graph: ir.Graph, node: ir.Node) -> bool:
    """A Gemm whose weight is no constant, as a MatMul and what is around it."""
    _scale(node, 2, "beta")
    if "beta" in node.attributes or node.outputs[0].dtype not in {ir.DataType.FLOAT, None}:
        return False
    name, result = node.name or str(node.outputs[0].name), node.outputs[0]
    operands = [
        _transpose(graph, node, value, [1, 0], f"operand_{i}").outputs[0] if int_attribute(node, flag, 0) else value
        for i, (value, flag) in enumerate(zip(node.inputs[:2], ("transA", "transB"), strict=True))
    ]
    new = [ir.node("MatMul", operands, name=name)]
    alpha = float_attribute(node, "alpha", 1.0)
    if alpha != 1:
        factor = initializer(graph, f"{name}_alpha", np.float32(alpha))
        new.append(ir.node("Mul", [new[-1].outputs[0], factor], name=f"{name}_scaled"))
    if input_value(node, 2) is not None:
        new.append(ir.node("Add", [new[-1].outputs[0], node.inputs[2]], name=f"{name}_sum"))
    for step in new[:-1]:
        step.outputs[0].name, step.outputs[0].type = f"{step.name}_result", result.type
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, [result], new[-1].outputs)
    return True


def _scale(node: ir.Node, index: int, name: str) -> bool:
    """Take alpha or beta into its constant."""
    factor = float_attribute(node, name, 1.0)
    if name not in node.attributes:
        return False
    if factor != 1 and input_value(node, index) is not None:
        constant = constant_input(node, index)
        if constant is None or constant.dtype != np.float32:
            return False
        scaled = constant.astype(np.float64) * factor
        if np.abs(scaled).max(initial=0) > LARGEST_FLOAT32:
            return False
        set_constant_input(node, index, scaled.astype(np.float32))
    del node.attributes[name]
    return True


def _try_rows(graph: ir.Graph, node: ir.Node) -> bool:
    """Put a bias that differs from row to row behind the node."""
    bias, result = constant_input(node, 2), node.outputs[0]
    if bias is None or bias.ndim < 2 or bias.shape[0] == 1 or "beta" in node.attributes:
        return False
    name = node.name or str(result.name)
    product = ir.node(
        "Gemm", node.inputs[:2], {key: value for key, value in node.attributes.items() if key != "beta"}, name=name
    )
    product.outputs[0].name, product.outputs[0].type = f"{name}_product", result.type
    add = ir.node("Add", [product.outputs[0], node.inputs[2]], name=f"{name}_rows")
    ir.convenience.replace_nodes_and_values(graph, node, [node], [product, add], [result], add.outputs)
    return True


def _try_matmul(graph: ir.Graph, node: ir.Node) -> bool:
    first, second = constant_input(node, 0), constant_input(node, 1)
    if first is not None and second is None:
        return _try_exchange(graph, node, first)
    if second is None or second.ndim <= 2 or second.size != second.shape[-1] * second.shape[-2]:
        return False
    if (rank(node.inputs[0]) or 0) < second.ndim:
        return False
    set_constant_input(node, 1, second.reshape(second.shape[-2:]))
    return True


def _try_exchange(graph: ir.Graph, node: ir.Node, weight: AnyArray) -> bool:
    x, dims, result = node.inputs[1], rank(node.inputs[1]), node.outputs[0]
    if x is None or dims is None or min(weight.ndim, dims) < 2:
        return False
    if dims >= weight.ndim and weight.size == weight.shape[-1] * weight.shape[-2]:
        weight = weight.reshape(weight.shape[-2:])
    name = node.name or str(result.name)
    turned = _transpose(graph, node, x, _exchanged(dims), "operand")
    exchanged = initializer(graph, f"{name}_weight", np.ascontiguousarray(weight.swapaxes(-1, -2)))
    product = ir.node("MatMul", [turned.outputs[0], exchanged], name=name)
    product.outputs[0].name, product.outputs[0].type = f"{name}_product", result.type
    back = ir.node("Transpose", product.outputs, {"perm": _exchanged(max(dims, weight.ndim))}, name=f"{name}_back")
    ir.convenience.replace_nodes_and_values(graph, node, [node], [product, back], [result], back.outputs)
    return True


def _exchanged(dims: int) -> list[int]:
    """The order of axes in which the last two have changed places."""
    return [*range(dims - 2), dims - 1, dims - 2]


def _transpose(graph: ir.Graph, node: ir.Node, x: ir.Value | None, order: list[int], what: str) -> ir.Node:
    """A Transpose before the node."""
    name = f"{node.name or node.outputs[0].name}_{what}"
    transpose = ir.node("Transpose", [x], {"perm": order}, name=name)
    transpose.outputs[0].name, transpose.outputs[0].type = f"{name}_turned", node.outputs[0].type
    if x is not None and x.shape is not None:
        transpose.outputs[0].shape = ir.Shape([x.shape.dims[axis] for axis in order])
    graph.insert_before(node, transpose)
    return transpose
