"""BatchNormalization that stands alone: it ships as a 1×1 depthwise Conv whose 8-bit weight is the multiplier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.ops.base import Unweighted

if TYPE_CHECKING:
    import torch

    from qpipe.ops.base import TorchFunction


class BatchNormalization(Unweighted):
    """`y[c] = k[c] * x[c] + b[c]`."""

    op_types = ("BatchNormalization",)

    def torch(self, node: ir.Node) -> TorchFunction:
        """`(x [N, C, ...], k [C], b [C]) -> [N, C, ...]`."""

        def run(x: torch.Tensor, k: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            shape = (1, -1, *([1] * (x.ndim - 2)))
            return x * k.reshape(shape) + b.reshape(shape)

        return run
