"""Add of two activations: the residual."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.ops.base import Op

if TYPE_CHECKING:
    import torch

    from qpipe.ops.base import TorchFunction


class Add(Op):
    """Both operands on power-of-two grids; the sum is exact, and requantized once, after the activation."""

    op_types = ("Add",)

    def torch(self, node: ir.Node) -> TorchFunction:
        """`(a, b) -> a + b`."""

        def run(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

        return run
