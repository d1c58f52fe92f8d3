"""MaxPool: the largest integer is the largest real number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.errors import LoweringError
from qpipe.ir.attributes import describe, int_attribute, window
from qpipe.ops.base import Op
from qpipe.ops.conv import torch_pads

if TYPE_CHECKING:
    import torch

    from qpipe.ops.base import TorchFunction


class MaxPool(Op):
    """Any kernel, stride, dilation, pads and ceil_mode, two spatial dimensions."""

    op_types = ("MaxPool",)

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x [N, C, H, W] -> [N, C, H', W']`; what is padded never wins."""
        from torch.nn import functional as F

        shape = window(node)
        if len(shape.kernel) != 2:
            raise LoweringError(f"{describe(node)}: {len(shape.kernel)} spatial dimensions, expected 2")
        pads, ceil_mode = torch_pads(shape.pads), bool(int_attribute(node, "ceil_mode", 0))

        def run(x: torch.Tensor) -> torch.Tensor:
            padded = F.pad(x, pads, value=float("-inf")) if any(pads) else x
            return F.max_pool2d(padded, shape.kernel, shape.strides, 0, shape.dilations, ceil_mode)

        return run
