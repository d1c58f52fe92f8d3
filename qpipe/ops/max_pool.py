"""MaxPool: the largest integer is the largest real number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.errors import LoweringError
from qpipe.nodes import describe, int_attribute, window
from qpipe.ops.base import Unweighted
from qpipe.ops.conv import torch_pads

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.ops.base import TorchFunction

_LOWEST = -3.4028234663852886e38  # of float32: what onnxruntime gives where a window sees nothing but padding


class MaxPool(Unweighted):
    """Any kernel, stride, dilation, pads and ceil_mode, two spatial dimensions."""

    op_types = ("MaxPool",)

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x [N, C, H, W] -> [N, C, H', W']`; what is padded never wins."""
        from torch.nn import functional as F

        shape = window(node)
        if len(shape.kernel) != 2:
            raise LoweringError(f"{describe(node)}: {len(shape.kernel)} spatial dimensions, expected 2")
        ceil_mode = bool(int_attribute(node, "ceil_mode", 0))

        def run(x: torch.Tensor) -> torch.Tensor:
            pads = shape.padded(x.shape[2:], ceil_mode=ceil_mode)
            padded = F.pad(x, torch_pads(pads), value=_LOWEST) if any(pads) else x
            return F.max_pool2d(padded, shape.kernel, shape.strides, 0, shape.dilations)

        return run

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """The node itself on codes: on channels first, which is faster than slices and Max on channels last."""
        from qpipe.lowering.integer_pool import check_windows

        check_windows(layer)
        super().lower_integer(layer, b)
