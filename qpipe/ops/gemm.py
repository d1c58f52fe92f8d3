"""Gemm and MatMul with a constant matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.ir.quantized.view_weights import FinalWeight
from qpipe.ir.quantized.weight_layout import output_axis
from qpipe.ops.base import Op

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import QuantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class Gemm(Op):
    """`y = x w`; the bias belongs to the affine map behind it."""

    op_types = ("Gemm", "MatMul")

    def torch(self, node: ir.Node) -> TorchFunction:
        """`(x [..., K], w as the node stores it, b [C] or None) -> [..., C]`."""
        from torch.nn import functional as F

        transposed = output_axis(node) == 0

        def run(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
            return F.linear(x, w if transposed else w.T, b)

        return run

    def lower_qoperator(self, layer: QuantizedLayer, b: QOperatorBuilder) -> None:
        """QGemm, QLinearMatMul for a MatMul; a last layer is MatMulInteger, whose int32 leave as they are."""
        if layer.output is None:
            # It takes the weight as [K, C] only.
            assert isinstance(layer.weight, FinalWeight)
            stored = layer.weight.codes
            weight, zero_point = b.weight(layer, stored.T if output_axis(layer.node) == 0 else stored)
            codes, _, input_zero_point = b.quantized_inputs(layer)
            inputs: list[ir.Value | None] = [codes, weight, input_zero_point, zero_point]
            value = b.emit("MatMulInteger", inputs, name=layer.name, dtype=ir.DataType.INT32)
            b.finish_last(layer, b.add_bias(layer, value))
            return
        weight, zero_point = b.weight(layer)
        inputs = [*b.quantized_inputs(layer), weight, b.weight_scale(layer), b.spread(layer, zero_point)]
        if layer.op_type == "MatMul":
            value = b.emit("QLinearMatMul", [*inputs, *b.grid(layer.output.before)], name=layer.name)
        else:
            attributes = {"transB": int(output_axis(layer.node) == 0)}
            inputs = [*inputs, b.bias(layer), *b.grid(layer.output.before)]
            value = b.emit("QGemm", inputs, name=layer.name, attributes=attributes, domain="com.microsoft")
        b.finish(layer, value)

    def lower_integer(self, layer: QuantizedLayer, b: IntegerBuilder) -> None:
        """MatMulInteger."""
        from qpipe.lowering.im2col import finish_weighted, multiply, weight_matrix

        assert isinstance(layer.weight, FinalWeight)
        codes = layer.weight.codes if output_axis(layer.node) == 0 else layer.weight.codes.T
        matrix = weight_matrix(b, codes, layer.weight.bits)
        sums = multiply(b, b.codes(layer.inputs[0]), matrix, layer.inputs[0].spec.zero_point)
        finish_weighted(b, layer, sums, "NCHW")
