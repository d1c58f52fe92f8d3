"""Conv: any stride, dilation, pads and groups, one or two spatial dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.arith.weights import as_rows, pair_excess, pair_limit
from qpipe.errors import LoweringError
from qpipe.nodes import Window, describe, int_attribute, static_shape, window
from qpipe.ops.base import Product

CHANNEL_BLOCK = 4
MAX_ALIGNED = 16  # input channels; with more, the added ones cost more than they gain
MIN_OUTPUTS = 16

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import InnerWeighted, LastLayer, Weighted
    from qpipe.ir.quantized.view_weights import FinalWeight
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class Conv(Product):
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

    def lower_qoperator(self, layer: InnerWeighted[FinalWeight], b: QOperatorBuilder) -> None:
        """QLinearConv."""
        codes, *grid = b.quantized_inputs(layer)
        codes, stored = _align_channels(layer, codes, b)
        weight, zero_point = b.weight(layer, stored)
        inputs: list[ir.Value | None] = [codes, *grid, weight, b.weight_scale(layer), b.spread(layer, zero_point)]
        inputs = [*inputs, *b.grid(layer.quantizer.before), b.bias(layer)]
        b.finish(layer, b.emit("QLinearConv", inputs, name=layer.name, attributes=layer.node.attributes))

    def lower_qoperator_last(self, layer: LastLayer[FinalWeight], b: QOperatorBuilder) -> None:
        """ConvInteger, because QLinearConv can't give int32."""
        codes, _, input_zero_point = b.quantized_inputs(layer)
        weight, zero_point = b.weight(layer)
        inputs = [codes, weight, input_zero_point, zero_point]
        attributes = layer.node.attributes
        value = b.emit("ConvInteger", inputs, name=layer.name, attributes=attributes, dtype=ir.DataType.INT32)
        b.finish_last(layer, b.add_bias(layer, value, spatial=len(window(layer.node).kernel)))

    def lower_integer(self, layer: InnerWeighted[FinalWeight], b: IntegerBuilder) -> None:
        """Patches of the codes times the weights, channels last; one spatial dimension is an image of one line."""
        b.finish_weighted(layer, _sums(layer, b), "NHWC")

    def lower_integer_last(self, layer: LastLayer[FinalWeight], b: IntegerBuilder) -> None:
        """The same sums."""
        b.finish_last(layer, _sums(layer, b), "NHWC")


def _sums(layer: Weighted[FinalWeight], b: IntegerBuilder) -> ir.Value:
    """Of a Conv, int32 `[N, *S', O]`, without the bias."""
    from qpipe.lowering.im2col import convolve
    from qpipe.lowering.stem import fold_stride

    weight, shape = layer.weight.codes, window(layer.node)
    if len(shape.kernel) == 1:
        weight, shape = weight[:, :, None], as_image_window(shape)
    if len(shape.kernel) != 2:
        raise LoweringError(f"{describe(layer.node)}: {len(shape.kernel)} spatial dimensions, expected 1 or 2")
    source = layer.sources[0]
    x, zero_point = b.codes(source, "NHWC"), source.spec.zero_point
    groups, sizes = int_attribute(layer.node, "group", 1), static_shape(source.codes)
    if groups == 1 and sizes is not None and len(sizes) == 4:
        x, weight, shape = fold_stride(b, x, weight, shape, sizes[2:], zero_point) or (x, weight, shape)
    return convolve(b, x, weight, layer.weight.bits, shape, groups, zero_point)


def _align_channels(
    layer: InnerWeighted[FinalWeight], codes: ir.Value, b: QOperatorBuilder
) -> tuple[ir.Value, npt.NDArray[np.int8]]:
    """Input codes and weights with zero channels added up to a multiple of 4, where that is worth it.

    onnxruntime's fastest convolution takes 4 channels at a time; without it an image's 3 channels take twice as long.
    The zeros change which weights are neighbours: they go to the end, or else to the begin, where all pairs are safe.
    """
    weight = layer.weight.codes
    missing = -weight.shape[1] % CHANNEL_BLOCK
    small = weight.shape[1] < MAX_ALIGNED and weight.shape[0] >= MIN_OUTPUTS and weight.shape[0] % 8 == 0
    if not missing or not small or b.weights != "int8" or int_attribute(layer.node, "group", 1) > 1 or weight.ndim != 4:
        return codes, weight
    limit = pair_limit(layer.sources[0].spec.stored_max)
    for begin in (0, missing):
        spread = [(0, 0), (begin, missing - begin), (0, 0), (0, 0)]
        padded = np.pad(weight, spread)
        if b.portable and np.any(pair_excess(as_rows(padded.astype(np.int64)), limit)):
            continue
        pads = b.constant(f"{layer.name}_channel_pads", np.array([pads[i] for i in (0, 1) for pads in spread]))
        inputs = [codes, pads, b.zero_point(layer.sources[0].spec)]
        return b.emit("Pad", inputs, name=f"{layer.name}_channels"), padded
    return codes, weight


def as_image_window(shape: Window) -> Window:
    """The window over `[L]` as one over `[1, L]`."""
    begin, end = shape.pads
    return Window(
        kernel=(1, *shape.kernel), strides=(1, *shape.strides), dilations=(1, *shape.dilations), pads=(0, begin, 0, end)
    )


def symmetric_pads(shape: Window) -> tuple[int, ...] | None:
    """The pads of each dimension where begin and end are equal, else None."""
    half = len(shape.pads) // 2
    return shape.pads[:half] if shape.pads[:half] == shape.pads[half:] else None


def torch_pads(pads: tuple[int, ...]) -> list[int]:
    """ONNX's pads (all begins, all ends) in torch's order (last dimension first, begin and end together)."""
    half = len(pads) // 2
    return [pad for i in reversed(range(half)) for pad in (pads[i], pads[half + i])]
