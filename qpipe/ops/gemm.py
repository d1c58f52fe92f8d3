"""Gemm and MatMul with a constant matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.ir.quantized.weight_layout import output_axis
from qpipe.ops.base import Product

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import InnerWeighted, LastLayer, Weighted
    from qpipe.ir.quantized.view_weights import FinalWeight
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class Gemm(Product):
    """`y = x w`; the bias belongs to the affine map behind it."""

    op_types = ("Gemm", "MatMul")

    def torch(self, node: ir.Node) -> TorchFunction:
        """`(x [..., K], w as the node stores it, b [C] or None) -> [..., C]`."""
        from torch.nn import functional as F

        transposed = output_axis(node) == 0

        def run(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
            return F.linear(x, w if transposed else w.T, b)

        return run

    def lower_qoperator(self, layer: InnerWeighted[FinalWeight], b: QOperatorBuilder) -> None:
        """QGemm, QLinearMatMul for a MatMul."""
        weight, zero_point = b.weight(layer)
        inputs: list[ir.Value | None] = [*b.quantized_inputs(layer), weight]
        inputs += [b.weight_scale(layer), b.spread(layer, zero_point)]
        if layer.op_type == "MatMul":
            value = b.emit("QLinearMatMul", [*inputs, *b.grid(layer.quantizer.before)], name=layer.name)
        else:
            attributes = {"transB": int(output_axis(layer.node) == 0)}
            inputs = [*inputs, b.bias(layer), *b.grid(layer.quantizer.before)]
            value = b.emit("QGemm", inputs, name=layer.name, attributes=attributes, domain="com.microsoft")
        b.finish(layer, value)

    def lower_qoperator_last(self, layer: LastLayer[FinalWeight], b: QOperatorBuilder) -> None:
        """MatMulInteger, whose int32 leave as they are; it takes the weight as `[K, C]` only."""
        stored = layer.weight.codes
        weight, zero_point = b.weight(layer, stored.T if output_axis(layer.node) == 0 else stored)
        codes, _, input_zero_point = b.quantized_inputs(layer)
        inputs: list[ir.Value | None] = [codes, weight, input_zero_point, zero_point]
        value = b.emit("MatMulInteger", inputs, name=layer.name, dtype=ir.DataType.INT32)
        b.finish_last(layer, b.add_bias(layer, value))

    def lower_integer(self, layer: InnerWeighted[FinalWeight], b: IntegerBuilder) -> None:
        """MatMulInteger."""
        b.finish_weighted(layer, _sums(layer, b), "NCHW")

    def lower_integer_last(self, layer: LastLayer[FinalWeight], b: IntegerBuilder) -> None:
        """MatMulInteger."""
        b.finish_last(layer, _sums(layer, b), "NCHW")


def _sums(layer: Weighted[FinalWeight], b: IntegerBuilder) -> ir.Value:
    """Of a Gemm or MatMul, int32 `[..., C]`, without the bias."""
    from qpipe.lowering.im2col import multiply, weight_matrix

    codes = layer.weight.codes if output_axis(layer.node) == 0 else layer.weight.codes.T
    matrix = weight_matrix(b, codes, layer.weight.bits)
    return multiply(b, b.codes(layer.sources[0]), matrix, layer.sources[0].spec.zero_point)
