"""Conv: any stride, dilation, pads and groups, one to three spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.arith.exact import product_type
from qpipe.arith.namespace import A, AnyArray, Float64Array, FloatArray, IntArray
from qpipe.arith.weights import as_rows, from_rows, pair_excess, pair_limit
from qpipe.nodes import group_count, static_shape, window
from qpipe.ops.base import Refusal
from qpipe.ops.forms import Operands
from qpipe.ops.product import Places, Product, TorchProduct
from qpipe.ops.windows import as_image, patches, require_dims, symmetric_pads, torch_pads, window_refusal

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import InnerWeighted, LastLayer, Weighted
    from qpipe.ir.quantized.view_weights import FinalWeight
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder

CHANNEL_BLOCK: Final = 4
MAX_ALIGNED: Final = 16  # input channels; with more, the added ones cost more than they gain
MIN_OUTPUTS: Final = 16


class Conv(Product):
    """`y[o] = sum over i, kernel of x * w`; the bias belongs to the affine map behind it."""

    op_types = ("Conv",)
    parameters = (Operands("Conv", 1, 2), Operands("ConvInteger", 1, 4), Operands("QLinearConv", 3, 8))
    channel_axis = 1
    # Its sums leave in float, which holds them exactly where the certificate says so.
    fuses_without_quantizer = False
    computed_weight = Refusal("its weight is computed by the graph: export the model with constant weights")

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Constants, and a window over one dimension to three."""
        return super().refusal(node) or window_refusal(node)

    def fits_skip(self, node: ir.Node) -> bool:
        """A projection: its kernel is one pixel."""
        shape = None if node.inputs[1] is None else static_shape(node.inputs[1])
        return self.refusal(node) is None and shape is not None and all(size == 1 for size in shape[2:])

    def torch(self, node: ir.Node) -> TorchProduct:
        """`(x [N, C, *S], w [O, C / groups, *kernel], b [O] or None) -> [N, O, *S']`."""
        import torch
        from torch.nn import functional as F

        shape, groups = require_dims(node), group_count(node)
        dims = len(shape.kernel)
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[dims]
        symmetric = symmetric_pads(shape.pads)
        around = torch_pads(shape.pads) if symmetric is None else []
        inside = symmetric or (0,) * dims
        least_width = shape.extent[-1] + shape.strides[-1]  # of more than one column of results

        def forward(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
            x = F.pad(x, around) if around else x
            if x.shape[1] == 1 and shape.strides[-1] > 1 and x.shape[-1] + 2 * inside[-1] < least_width:
                x, w = _channels_first(x), _channels_first(w)
            return convolve(x, w, b, shape.strides, inside, shape.dilations, groups)

        def backward(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor, mask: list[bool]) -> list[torch.Tensor]:
            arguments = (list(shape.strides), list(inside), list(shape.dilations), False, [0] * dims, groups, mask)
            found: list[torch.Tensor] = torch.ops.aten.convolution_backward(g, x, w, None, *arguments)
            return found

        def without_pads(gradient: torch.Tensor) -> torch.Tensor:
            return F.pad(gradient, [-pad for pad in around]) if around else gradient

        def grad_input(sizes: Sequence[int], w: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
            # Of x itself nothing but the shape matters.
            x = g.new_empty(1).expand(*sizes)
            return without_pads(backward(g, F.pad(x, around) if around else x, w, [True, False, False])[0])

        def grad_weight(x: torch.Tensor, sizes: Sequence[int], g: torch.Tensor) -> torch.Tensor:
            x = F.pad(x, around) if around else x
            return backward(g, x, g.new_empty(1).expand(*sizes), [False, True, False])[1]

        def gradients(x: torch.Tensor, w: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            of_x, of_w, _ = backward(g, F.pad(x, around) if around else x, w, [True, True, False])
            return without_pads(of_x), of_w

        return TorchProduct(forward, grad_input, grad_weight, gradients)

    def spatial_dims(self, node: ir.Node) -> int:
        """Those of the kernel."""
        return len(window(node).kernel)

    def output_axis(self, node: ir.Node) -> int:
        """`[O, C / groups, *kernel]`."""
        return 0

    def to_rows(self, node: ir.Node, weight: A) -> A:
        """Channels fastest: the order of patches of an image with channels last."""
        return as_rows(weight)

    def to_weight(self, node: ir.Node, rows: A, shape: tuple[int, ...]) -> A:
        """The inverse of `to_rows`."""
        return from_rows(rows, shape)

    def drawn_places(self, node: ir.Node, x: FloatArray, count: int, rng: np.random.Generator) -> Places:
        """Of an image, and along each of its axes."""
        shape = window(node)
        dims = len(shape.kernel)
        sizes = patches(x, shape, shape.pads).shape
        return tuple(rng.integers(0, size, count) for size in (sizes[0], *sizes[2 : 2 + dims]))

    def rows_at(self, node: ir.Node, x: FloatArray, places: Places) -> FloatArray:
        """Patches, channels fastest."""
        shape, groups = window(node), group_count(node)
        # [N, *S', *kernel, C], a view.
        found = np.moveaxis(patches(x, shape, shape.pads), 1, -1)
        count = len(places[0])
        drawn = found[places].reshape(count, -1, groups, x.shape[1] // groups)
        return np.moveaxis(drawn, 2, 0).reshape(groups, count, -1)

    def results_at(self, y: FloatArray, places: Places) -> FloatArray:
        """Pixels."""
        found: FloatArray = np.moveaxis(y, 1, -1)[places]
        return found

    def passing(
        self, node: ir.Node, weight: FloatArray, outputs: IntArray, inputs: IntArray, factor: Float64Array
    ) -> FloatArray | None:
        """A one where the window's tap lies on the pixel itself; without a border in its middle."""
        shape, groups = window(node), group_count(node)
        if groups > 1 and not (self.is_depthwise(node) and np.array_equal(outputs, inputs)):
            return None
        begins = zip(shape.kernel, shape.pads, shape.dilations, strict=False)
        is_padded = any(shape.pads)
        taps = (min(begin // step, size - 1) if is_padded else (size - 1) // 2 for size, begin, step in begins)
        where: tuple[Any, ...] = (outputs, inputs if groups == 1 else np.zeros_like(inputs), *taps)
        found = weight.copy()
        found[outputs] = 0
        found[where] = factor
        return found

    def is_depthwise(self, node: ir.Node, shape: Sequence[int | ir.SymbolicDim] | None = None) -> bool:
        """One with several output channels a group is a product of matrices to onnxruntime, as other grouped ones."""
        if shape is None:
            shape = () if node.inputs[1] is None or node.inputs[1].shape is None else node.inputs[1].shape.dims
        groups = group_count(node)
        return groups > 1 and len(shape) > 1 and shape[0] == groups and shape[1] == 1

    def summands(self, node: ir.Node, weight: Sequence[int | None]) -> int:
        """Input channels of a group times pixels of the kernel."""
        return math.prod(size for size in weight[1:] if size is not None)

    def sums(self, node: ir.Node, codes: IntArray, x: IntArray, largest: int) -> Float64Array:
        """Patches `[N, G, C / G * kernel, S']` times the weights of each group `[G, O / G, C / G * kernel]`."""
        rows = codes.reshape(group_count(node), len(codes) // group_count(node), -1)
        return _convolve(node, rows, x, product_type(rows, largest)).astype(np.float64)

    def lower_qoperator(self, layer: InnerWeighted[FinalWeight], b: QOperatorBuilder) -> None:
        """QLinearConv."""
        codes, *grid = b.quantized_inputs(layer)
        codes, stored = _align_channels(layer, codes, b)
        weight, zero_point = b.weight(layer, stored)
        inputs: list[ir.Value | None] = [codes, *grid, weight, b.weight_scale(layer), b.spread(layer, zero_point)]
        inputs = [*inputs, *b.grid(layer.quantizer.rounded_to), b.bias(layer)]
        b.finish(layer, b.emit("QLinearConv", inputs, name=layer.name, attributes=layer.node.attributes))

    def lower_qoperator_last(self, layer: LastLayer[FinalWeight], b: QOperatorBuilder) -> None:
        """ConvInteger, because QLinearConv can't give int32."""
        codes, _, input_zero_point = b.quantized_inputs(layer)
        weight, zero_point = b.weight(layer)
        inputs = [codes, weight, input_zero_point, zero_point]
        attributes = layer.node.attributes
        value = b.emit("ConvInteger", inputs, name=layer.name, attributes=attributes, dtype=ir.DataType.INT32)
        b.finish_last(layer, b.add_bias(layer, value, spatial=self.spatial_dims(layer.node)))

    def lower_integer(self, layer: InnerWeighted[FinalWeight], b: IntegerBuilder) -> None:
        """Patches of the codes times the weights, channels last; one spatial dimension is an image of one line."""
        b.finish_weighted(layer, _sums(layer, b), "NHWC")

    def lower_integer_last(self, layer: LastLayer[FinalWeight], b: IntegerBuilder) -> None:
        """The same sums."""
        b.finish_last(layer, _sums(layer, b), "NHWC")


def convolved(node: ir.Node, x: AnyArray, weight: AnyArray, bias: AnyArray | None) -> FloatArray:
    """What it makes of a constant of floats `[N, C, *S]`, rounded to float32."""
    groups = group_count(node)
    found = _convolve(node, weight.reshape(groups, len(weight) // groups, -1), x, np.float64)
    if bias is not None:
        found += bias.reshape(-1, *[1] * (found.ndim - 2))
    return found.astype(np.float32)


def _convolve(node: ir.Node, rows: AnyArray, x: AnyArray, kind: type[np.floating[Any]]) -> AnyArray:
    """`[N, O, *S']` in this type; rows: the weights of each group `[G, O / G, C / G * kernel]`."""
    shape, groups = window(node), group_count(node)
    found = patches(x.astype(kind), shape, shape.pads)
    count, channels, dims = len(x), x.shape[1], len(shape.kernel)
    sizes = found.shape[2 : 2 + dims]
    # [N, C, *kernel, *S'], the order of a weight's row.
    taps = found.transpose(0, 1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims))
    columns = taps.reshape(count, groups, channels // groups * math.prod(shape.kernel), math.prod(sizes))
    result: AnyArray = (rows.astype(kind) @ columns).reshape(count, groups * rows.shape[1], *sizes)
    return result


def _channels_first(x: torch.Tensor) -> torch.Tensor:
    """The same numbers of one channel, strided as channels first, which its strides can't be told from channels last.

    Of one channel and one column of results, with a stride, oneDNN's convolution of channels last (of torch 2.13, on
    CPUs with AVX512) reads the wrong numbers.
    """
    return x.reshape(len(x), -1).reshape(x.shape)


def _sums(layer: Weighted[FinalWeight], b: IntegerBuilder) -> ir.Value:
    """int32 `[N, *S', O]`, without the bias."""
    weight, shape = layer.weight.codes, window(layer.node)
    weight = weight[:, :, None] if weight.ndim == 3 else weight
    groups = group_count(layer.node)
    return b.convolve(layer.sources[0], weight, layer.weight.bits, as_image(shape), groups)


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
    if not missing or not small or b.weights != "int8" or group_count(layer.node) > 1 or weight.ndim != 4:
        return codes, weight
    limit = pair_limit(layer.sources[0].grid.stored_max)
    for begin in (0, missing):
        spread = [(0, 0), (begin, missing - begin), (0, 0), (0, 0)]
        padded = np.pad(weight, spread)
        if b.portable and np.any(pair_excess(as_rows(padded.astype(np.int64)), limit)):
            continue
        pads = b.constant(f"{layer.name}_channel_pads", np.array([pads[i] for i in (0, 1) for pads in spread]))
        inputs = [codes, pads, b.zero_point(layer.sources[0].grid)]
        return b.emit("Pad", inputs, name=f"{layer.name}_channels"), padded
    return codes, weight
