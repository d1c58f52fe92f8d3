"""Write a linear layer on sequences, MatMul and Add of a bias, as one on rows: only a Gemm holds a bias.

    f(MatMul(x [N, T, K], w [K, C]) + c [C])    becomes    Reshape -> Gemm(x [N T, K], w, c) -> f -> Reshape

f is the activation behind it, if there is one: it stays with its layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import activation_behind, added_constant, rewrite
from qpipe.nodes import AnyArray, constant_input, initializer, name_value, static_shape


@dataclass(frozen=True, kw_only=True)
class FlattenLinear(ir.passes.InPlacePass):
    """MatMul of three dimensions or more, and an Add that alone reads it, where all sizes but the first are fixed."""

    name: ClassVar[str] = "flatten-linear"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every match."""
        return rewrite(model, {"Add"}, _try_flatten)


def _try_flatten(graph: ir.Graph, add: ir.Node) -> bool:
    match = added_constant(add)
    if match is None or match[0].op_type != "MatMul" or match[0].domain != "":
        return False
    matmul, bias = match
    sizes, weight = static_shape(matmul.inputs[0]), constant_input(matmul, 1)
    if sizes is None or len(sizes) < 3 or None in sizes[1:] or weight is None or weight.ndim != 2:
        return False
    if bias.size != weight.shape[1] or bias.shape[-1] != bias.size:
        return False
    _flatten(graph, matmul, add, [int(size) for size in sizes[1:-1] if size is not None], weight.shape, bias)
    return True


def _flatten(
    graph: ir.Graph, matmul: ir.Node, add: ir.Node, between: list[int], weight: tuple[int, ...], bias: AnyArray
) -> None:
    name, float32 = str(matmul.name or add.outputs[0].name), ir.TensorType(ir.DataType.FLOAT)
    last = activation_behind(add.outputs[0]) or add
    rows = _reshape(graph, matmul.inputs[0], [-1, weight[0]], f"{name}/rows")
    inputs = [rows.outputs[0], matmul.inputs[1], initializer(graph, f"{name}_bias", np.array(bias.reshape(-1)))]
    gemm = ir.node("Gemm", inputs, name=name)
    name_value(gemm.outputs[0], f"{name}/product", float32, ir.Shape([None, weight[1]]))
    new, result = [rows, gemm], gemm.outputs[0]
    if last is not add:
        activation = ir.node(
            last.op_type, [result, *last.inputs[1:]], dict(last.attributes), domain=last.domain, name=last.name
        )
        name_value(activation.outputs[0], f"{name}/activated", float32, result.shape)
        new, result = [*new, activation], activation.outputs[0]
    back = _reshape(graph, result, [-1, *between, weight[1]], f"{name}/sequences")
    old = [matmul, add] if last is add else [matmul, add, last]
    ir.convenience.replace_nodes_and_values(graph, last, old, [*new, back], last.outputs, back.outputs)


def _reshape(graph: ir.Graph, value: ir.Value | None, target: list[int], name: str) -> ir.Node:
    node = ir.node("Reshape", [value, initializer(graph, f"{name}_shape", np.array(target))], name=name)
    shape = ir.Shape([None if size < 0 else size for size in target])
    name_value(node.outputs[0], f"{name}_output", ir.TensorType(ir.DataType.FLOAT), shape)
    return node
