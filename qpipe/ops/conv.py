"""Conv: any stride, dilation, pads and groups, one or two spatial dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.errors import LoweringError
from qpipe.ir.attributes import Window, describe, int_attribute, window
from qpipe.ops.base import Op

if TYPE_CHECKING:
    import torch

    from qpipe.ir.view import QuantizedLayer
    from qpipe.ops.base import TorchFunction
    from qpipe.ops.qoperator_builder import QOperatorBuilder


class Conv(Op):
    """`y[o] = sum over i, kernel of x * w`; the bias belongs to the affine map behind it."""

    op_types = ("Conv",)

    def torch(self, node: ir.Node) -> TorchFunction:
        """`(x [N, C, *S], w [O, C / groups, *kernel], b [O] or None) -> [N, O, *S']`."""
        from torch.nn import functional as F

        shape, groups = window(node), int_attribute(node, "group", 1)
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}.get(len(shape.kernel))
        if convolve is None:
            raise LoweringError(f"{describe(node)}: {len(shape.kernel)} spatial dimensions, expected 1 to 3")
        symmetric = symmetric_pads(shape)

        def run(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
            if symmetric is not None:
                return convolve(x, w, b, shape.strides, symmetric, shape.dilations, groups)
            padded = F.pad(x, torch_pads(shape.pads))
            return convolve(padded, w, b, shape.strides, 0, shape.dilations, groups)

        return run

    def lower_qoperator(self, layer: QuantizedLayer, b: QOperatorBuilder) -> None:
        """QLinearConv; a last layer, whose int32 it can't give, is ConvInteger."""
        weight, zero_point = b.weight(layer)
        codes, *grid = b.quantized_inputs(layer)
        attributes = layer.node.attributes
        if layer.output is not None:
            inputs = [codes, *grid, weight, b.weight_scale(layer), b.spread(layer, zero_point)]
            inputs += [*b.grid(layer.output.spec), b.bias(layer)]
            b.finish(layer, b.emit("QLinearConv", inputs, name=layer.name, attributes=attributes))
            return
        inputs = [codes, weight, grid[1], zero_point]
        value = b.emit("ConvInteger", inputs, name=layer.name, attributes=attributes, dtype=ir.DataType.INT32)
        b.finish_last(layer, b.add_bias(layer, value, spatial=len(window(layer.node).kernel)))


def symmetric_pads(shape: Window) -> tuple[int, ...] | None:
    """The pads of each dimension where begin and end are equal, else None."""
    half = len(shape.pads) // 2
    return shape.pads[:half] if shape.pads[:half] == shape.pads[half:] else None


def torch_pads(pads: tuple[int, ...]) -> list[int]:
    """ONNX's pads (all begins, all ends) in torch's order (last dimension first, begin and end together)."""
    half = len(pads) // 2
    return [pad for i in reversed(range(half)) for pad in (pads[i], pads[half + i])]
