"""Add of two activations: the residual."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.ops.base import Op

if TYPE_CHECKING:
    import torch

    from qpipe.ir.view import QuantizedLayer
    from qpipe.ops.base import TorchFunction
    from qpipe.ops.qoperator_builder import QOperatorBuilder


class Add(Op):
    """Both operands on power-of-two grids; the sum is exact, and requantized once, after the activation."""

    op_types = ("Add",)

    def torch(self, node: ir.Node) -> TorchFunction:
        """`(a, b) -> a + b`."""

        def run(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

        return run

    def lower_qoperator(self, layer: QuantizedLayer, b: QOperatorBuilder) -> None:
        """QLinearAdd."""
        assert layer.output is not None
        inputs = [*b.quantized_inputs(layer), *b.grid(layer.output.spec)]
        b.finish(layer, b.emit("QLinearAdd", inputs, name=layer.name, domain="com.microsoft"))
