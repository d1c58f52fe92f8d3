"""Gemm and MatMul with a constant matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.ir.weight_layout import output_axis
from qpipe.ops.base import Op

if TYPE_CHECKING:
    import torch

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
