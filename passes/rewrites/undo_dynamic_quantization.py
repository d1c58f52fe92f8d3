"""Take dynamic quantization back: a network whose activations are quantized anew in each run is a float one.

    MatMulInteger(q, w, zero, w_zero), q, scale, zero = DynamicQuantizeLinear(x)   becomes   MatMul(x, w - w_zero)

ConvInteger likewise. The Cast of the sums does nothing then, and the Mul by `scale w_scale` is one by `w_scale`, which
folds into the weights. A table of codes that a Gather reads is one of floats before it. Source: onnxruntime's
`quantize_dynamic`, as many files of transformers are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.nodes import constant_array, initializer, input_value
from qpipe.ops.quantizer_parts import dequantizes, quantizes_anew

_PRODUCTS: Final = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}


@dataclass(frozen=True, kw_only=True)
class UndoDynamicQuantization(ir.passes.InPlacePass):
    """Where products of constant weights alone read codes; else nothing of the graph."""

    name: ClassVar[str] = "undo-dynamic-quantization"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        graph = model.graph
        quantizers = [node for node in graph if quantizes_anew(node)]
        products = [node for node in graph if node.op_type in _PRODUCTS and node.domain == ""]
        readers = {reader for node in quantizers for index in (0, 2) for reader in node.outputs[index].consumers()}
        if not quantizers or not readers <= {*products} or not all(map(_is_of_constants, products)):
            return ir.passes.PassResult(model, False)
        for node in products:
            _replace_product(graph, node)
        for node in quantizers:
            one = initializer(graph, f"{node.name or node.outputs[1].name}_one", np.float32(1))
            node.outputs[1].replace_all_uses_with(one)
            graph.remove(node, safe=True)
        for node in list(graph):
            if dequantizes(node):
                _dequantize_table(graph, node)
        return ir.passes.PassResult(model, True)


def _is_of_constants(node: ir.Node) -> bool:
    """Whether its weights are constant, and its codes those of a quantizer or of a constant table."""
    zeros = [value for index in (2, 3) if (value := input_value(node, index)) is not None]
    giver = node.inputs[0].producer() if node.inputs[0] is not None else None
    is_new = giver is not None and quantizes_anew(giver)
    known = [node.inputs[1], *(zeros[1:] if is_new else zeros)]
    return (is_new or _looks_up(giver)) and all(constant_array(value) is not None for value in known)


def _looks_up(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Gather" and constant_array(node.inputs[0]) is not None


def _replace_product(graph: ir.Graph, node: ir.Node) -> None:
    codes, zero = constant_array(input_value(node, 1)), constant_array(input_value(node, 3))
    giver = node.inputs[0].producer() if node.inputs[0] is not None else None
    assert codes is not None
    assert giver is not None
    operand = giver.inputs[0] if quantizes_anew(giver) else _shifted_table(graph, node, giver)
    weight = codes.astype(np.float32)
    if zero is not None:
        # One for all, one for each column of a matrix, or one for each filter.
        spread = zero.reshape(-1, *[1] * (codes.ndim - 1)) if node.op_type == "ConvInteger" else zero
        weight = weight - spread.astype(np.float32)
    name = node.name or str(node.outputs[0].name)
    operands = [operand, initializer(graph, f"{name}_weight", weight)]
    product = ir.node(_PRODUCTS[node.op_type], operands, node.attributes.copy(), name=name)
    product.outputs[0].name, product.outputs[0].type = f"{name}_product", ir.TensorType(ir.DataType.FLOAT)
    product.outputs[0].shape = node.outputs[0].shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], [product], node.outputs, product.outputs)
    product.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)


def _shifted_table(graph: ir.Graph, node: ir.Node, look_up: ir.Node) -> ir.Value:
    """The codes that a product reads of a table, without their zero point, as floats."""
    table, zero = constant_array(look_up.inputs[0]), constant_array(input_value(node, 2))
    assert table is not None
    real = table.astype(np.float32) - (0 if zero is None else zero.astype(np.float32))
    name = f"{node.name or node.outputs[0].name}_rows"
    rows = ir.node("Gather", [initializer(graph, f"{name}_table", real), look_up.inputs[1]],
                   look_up.attributes.copy(), name=name)  # fmt: skip
    rows.outputs[0].name, rows.outputs[0].type = f"{name}_result", ir.TensorType(ir.DataType.FLOAT)
    rows.outputs[0].shape = look_up.outputs[0].shape
    graph.insert_before(node, rows)
    return rows.outputs[0]


def _dequantize_table(graph: ir.Graph, node: ir.Node) -> None:
    """Exchange a DequantizeLinear of one scale and the look-up before it."""
    found = node.inputs[0].producer() if node.inputs[0] is not None else None
    scale = constant_array(node.inputs[1])
    if found is None or not _looks_up(found) or scale is None or scale.size != 1:
        return
    name = node.name or str(node.outputs[0].name)
    table = ir.node("DequantizeLinear", [found.inputs[0], *node.inputs[1:]], name=f"{name}_table")
    table.outputs[0].name, table.outputs[0].type = f"{name}_real", ir.TensorType(ir.DataType.FLOAT)
    looked_up = ir.node("Gather", [table.outputs[0], found.inputs[1]], found.attributes.copy(), name=name)
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], [table, looked_up], node.outputs[:1], looked_up.outputs
    )
