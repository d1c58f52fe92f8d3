"""Write onnxruntime's integer operators as ordinary ones between a DequantizeLinear and a QuantizeLinear.

    QLinearConv(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, b)

computes `Q_y(Conv(DQ_x(x), DQ_w(w), DQ(b)))`, the bias on the grid of the accumulator, `x_scale * w_scale`. So a file
in the operator-oriented form reads as one with quantizers does. Source: ONNX Runtime, *Quantize ONNX models*, "ONNX
quantization representation format".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.errors import ModelError
from qpipe.nodes import AnyArray, constant_array, describe, initializer, int_attribute


@dataclass(frozen=True)
class _Form:
    """op_type: the ordinary one. data: where its operands are, each before its scale and its zero point.

    result: where the scale of the result is, before its zero point. bias: where an int32 bias is. private: attributes
    that only the integer form has.
    """

    op_type: str
    data: tuple[int, ...] | None
    result: int
    bias: int | None = None
    private: frozenset[str] = frozenset()


_LAST: Final = frozenset({"channels_last"})
_FORMS: Final = {
    "QLinearConv": _Form("Conv", (0, 3), 6, bias=8),
    "QLinearMatMul": _Form("MatMul", (0, 3), 6),
    "QGemm": _Form("Gemm", (0, 3), 7, bias=6),
    "QLinearAdd": _Form("Add", (0, 3), 6),
    "QLinearMul": _Form("Mul", (0, 3), 6),
    "QLinearConcat": _Form("Concat", None, 0),
    "QLinearAveragePool": _Form("AveragePool", (0,), 3, private=_LAST),
    "QLinearGlobalAveragePool": _Form("GlobalAveragePool", (0,), 3, private=_LAST),
    "QLinearLeakyRelu": _Form("LeakyRelu", (0,), 3),
    "QLinearSigmoid": _Form("Sigmoid", (0,), 3),
    "QLinearSoftmax": _Form("Softmax", (0,), 3, private=frozenset({"opset"})),
}
"""By the names of the integer forms."""


@dataclass(frozen=True, kw_only=True)
class SeparateQuantizers(ir.passes.InPlacePass):
    """Every operator that `_FORMS` has; ModelError names one that it has not."""

    name: ClassVar[str] = "separate-quantizers"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace each by its ordinary form."""
        found = [node for node in model.graph if node.op_type in _FORMS]
        for node in model.graph:
            if node.op_type not in _FORMS and node.op_type.startswith(("QLinear", "QAttention", "QEmbed", "QMoE")):
                raise ModelError(f"{describe(node)}: expected one of {', '.join(_FORMS)}")
        for node in found:
            _separate(model.graph, node, _FORMS[node.op_type])
        return ir.passes.PassResult(model, bool(found))


def _separate(graph: ir.Graph, node: ir.Node, form: _Form) -> None:
    places = range(2, len(node.inputs), 3) if form.data is None else form.data
    dequantized = [_dequantize(node, place) for place in places]
    operands = [one.outputs[0] for one in dequantized]
    if form.bias is not None and (bias := _bias(graph, node, form.bias)) is not None:
        operands.append(bias)
    attributes = [value for name, value in node.attributes.items() if name not in form.private]
    ordinary = ir.node(form.op_type, operands, {a.name: a for a in attributes}, name=node.name)
    ordinary.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    result = node.outputs[0]
    ordinary.outputs[0].name, ordinary.outputs[0].shape = f"{result.name}_real", result.shape
    quantize = ir.node("QuantizeLinear", [ordinary.outputs[0], *node.inputs[form.result : form.result + 2]])
    quantize.outputs[0].shape, quantize.outputs[0].type = result.shape, result.type
    new = [*dequantized, ordinary, quantize]
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, [result], [quantize.outputs[0]])


def _dequantize(node: ir.Node, place: int) -> ir.Node:
    """Of an operand; a weight may have a scale for each of its output channels."""
    scale = constant_array(node.inputs[place + 1])
    if scale is None:
        raise ModelError(f"{describe(node)}: its input {place + 1}, a scale, is computed, expected a constant")
    attributes = {"axis": _channels(node)} if scale.size > 1 else {}
    return ir.node("DequantizeLinear", node.inputs[place : place + 3], attributes)


def _channels(node: ir.Node) -> int:
    """The axis of a weight's output channels, from the operator's own text."""
    if node.op_type == "QGemm":
        return 0 if int_attribute(node, "transB", 0) else 1
    return 0 if node.op_type == "QLinearConv" else -1


def _bias(graph: ir.Graph, node: ir.Node, place: int) -> ir.Value | None:
    """In real numbers; it is on the grid of the accumulator."""
    if place >= len(node.inputs) or node.inputs[place] is None:
        return None
    bias, left, right = (constant_array(node.inputs[index]) for index in (place, 1, 4))
    if bias is None or left is None or right is None:
        raise ModelError(f"{describe(node)}: its bias or a scale is computed, expected constants")
    real: AnyArray = (bias.astype(np.float64) * left.astype(np.float64) * right).astype(np.float32)
    return initializer(graph, f"{node.name}_bias", real)
