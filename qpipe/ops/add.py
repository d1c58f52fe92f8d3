"""Add of two activations: the residual."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.arith.symbolic import INT32, UINT8
from qpipe.ops.base import Unweighted

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class Add(Unweighted):
    """Both operands on power-of-two grids; the sum is exact, and requantized once, after the activation."""

    op_types = ("Add",)

    def torch(self, node: ir.Node) -> TorchFunction:
        """`(a, b) -> a + b`."""

        def run(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

        return run

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """QLinearAdd."""
        inputs = [*b.quantized_inputs(layer), *b.grid(layer.quantizer.before)]
        b.finish(layer, b.emit("QLinearAdd", inputs, name=layer.name, domain="com.microsoft"))

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """The sum in the finer operand's steps, zero points and all."""
        layout = b.common_layout(layer.sources)
        unit = min(q.spec.exponent for q in layer.sources)
        total, bias, low, high = None, 0, 0, 0
        for q in layer.sources:
            steps = 1 << (q.spec.exponent - unit)
            term = b.symbol(b.codes(q, layout), q.codes, layout, UINT8).astype(INT32) * steps
            total = term if total is None else total + term
            bias -= q.spec.zero_point * steps
            low, high = low + q.spec.stored_min * steps, high + q.spec.stored_max * steps
        assert total is not None
        shift = layer.quantizer.before.exponent - unit
        b.finish(layer, total, layout, shift=shift, bias=bias, accumulators=(low, high))
