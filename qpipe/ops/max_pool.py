"""MaxPool: the largest integer is the largest real number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.arith.namespace import IntArray
from qpipe.arith.spec import STORAGE_MAX
from qpipe.nodes import int_attribute, window
from qpipe.ops.base import Carrier, Refusal
from qpipe.ops.factors import Factors
from qpipe.ops.windows import as_image, image_sizes, patches, require_dims, torch_pads, window_refusal
from qpipe.ops.work import NodeWork, Work

if TYPE_CHECKING:
    import torch

    from qpipe.ops.base import TorchFunction

_BELOW = -STORAGE_MAX  # every integer of a tensor, and of what it is carried to
_LOWEST = -3.4028234663852886e38  # of float32: what onnxruntime gives where a window sees nothing but padding


class MaxPool(Carrier):
    """Any kernel, stride, dilation, pads and ceil_mode, one to three spatial dimensions."""

    op_types = ("MaxPool",)
    homogeneous = True

    def refusal(self, node: ir.Node) -> Refusal | None:
        """A window over one dimension to three, of pads that runtimes take, and no indices."""
        if len(node.outputs) > 1:
            return Refusal("its indices are used: use its first output only")
        return window_refusal(node) or _overhang_refusal(node)

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """One for each channel: the largest of numbers has theirs."""
        return book.over(operands[0], range(2, operands[0].ndim))

    def fits_skip(self, node: ir.Node) -> bool:
        """To shrink."""
        return True

    def work(self, node: ir.Node) -> NodeWork:
        """The gradient is added where the largest was."""
        return NodeWork(Work(compare=math.prod(window(node).kernel) - 1), backward=Work(add=1))

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x [N, C, *S] -> [N, C, *S']`; what is padded never wins."""
        from torch.nn import functional as F

        shape = require_dims(node)
        is_row, shape = len(shape.kernel) == 1, as_image(shape)
        ceil_mode = bool(int_attribute(node, "ceil_mode", 0))
        pool = F.max_pool3d if len(shape.kernel) == 3 else F.max_pool2d

        def run(x: torch.Tensor) -> torch.Tensor:
            x = x.unsqueeze(2) if is_row else x
            pads = shape.padded(x.shape[2:], ceil_mode=ceil_mode)
            padded = F.pad(x, torch_pads(pads), value=_LOWEST) if any(pads) else x
            largest = pool(padded, shape.kernel, shape.strides, 0, shape.dilations)
            return largest.squeeze(2) if is_row else largest

        return run

    def moved(self, node: ir.Node, x: IntArray) -> IntArray:
        """The largest under each position; what is padded never wins."""
        shape = window(node)
        pads = shape.padded(x.shape[2:], ceil_mode=bool(int_attribute(node, "ceil_mode", 0)))
        largest: IntArray = patches(x, shape, pads, fill=_BELOW).max(axis=tuple(range(-len(shape.kernel), 0)))
        return largest


def _overhang_refusal(node: ir.Node) -> Refusal | None:
    """A dilated window may hang over the end by its kernel and more, which no runtime takes as pads."""
    shape, sizes = window(node), image_sizes(node)
    if sizes is None or not int_attribute(node, "ceil_mode", 0):
        return None
    ends = shape.padded(sizes, ceil_mode=True)[len(sizes) :]
    if all(end < kernel for end, kernel in zip(ends, shape.kernel, strict=True)):
        return None
    return Refusal("its last dilated window hangs over the end by its kernel or more: export it without ceil_mode")
