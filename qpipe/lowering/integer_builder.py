"""Write an integer graph: standard operators on integer tensors alone, channels last where convolutions are.

Every requantized value says which tensor of the QDQ graph it equals, and in which layout (metadata `qpipe.codes_of`,
`qpipe.layout`), so that the gate can compare the two. The arithmetic is `qpipe.arith.quantize`'s, interpreted by
`qpipe.arith.symbolic`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.arith.quantize import accumulator_range, on_grid, requantization, requantize
from qpipe.arith.spec import QuantSpec
from qpipe.arith.symbolic import INT32, UINT8, Symbol
from qpipe.arith.table import CodeTable, row_sizes
from qpipe.errors import LoweringError
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.view import InnerWeighted, LastLayer, RequantizedLayer
from qpipe.ir.quantized.view_weights import FinalWeight
from qpipe.lowering.im2col import convolve, multiply, pad, weight_matrix
from qpipe.lowering.integer_graph import Array, IntegerGraph
from qpipe.lowering.integer_pool import divide, window_sums
from qpipe.lowering.marks import mark
from qpipe.lowering.stem import fold_stride
from qpipe.nodes import Window, static_shape
from qpipe.ops.weight_layout import to_rows

Layout = Literal["NCHW", "NHWC"]
Range = tuple[npt.ArrayLike, npt.ArrayLike]

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


class IntegerBuilder(IntegerGraph):
    """What the ops call: codes of the QDQ graph's tensors, sums of products and of windows, results on their grids."""

    def __init__(self, graph: ir.Graph, *, weights: str = "int8") -> None:
        super().__init__(graph, weights=weights)
        self._codes: dict[ir.Value, dict[Layout, ir.Value]] = {}

    # Quantized tensors in one layout or the other.

    def layout(self, quantizer: ActivationQuantizer) -> Layout:
        """The layout in which the tensor was computed."""
        return next(iter(self._codes[quantizer.output]))

    def layout_of_images(self, quantizer: ActivationQuantizer) -> Layout:
        """Channels last of images and rows, whose pixels are then copied whole; else the layout that the tensor has."""
        return "NHWC" if len(quantizer.codes.shape or ()) in (3, 4, 5) else self.layout(quantizer)

    def common_layout(self, quantizers: Sequence[ActivationQuantizer]) -> Layout:
        """Channels last where any tensor has it, else the specification's own."""
        return "NHWC" if any(self.layout(q) == "NHWC" for q in quantizers) else "NCHW"

    def codes(self, quantizer: ActivationQuantizer, layout: Layout = "NCHW") -> ir.Value:
        """The tensor's codes, in the specification's own layout or channels last; converted once."""
        return self._in_layout(quantizer.output, layout, quantizer.codes.shape, quantizer.grid.dtype)

    def result(self, value: ir.Value) -> ir.Value:
        """The integers of a dequantized value, or a last layer's int32, in the specification's own layout."""
        return self._in_layout(value, "NCHW", value.shape, _numpy_type(next(iter(self._codes[value].values()))))

    @staticmethod
    def arranged(shape: Sequence[Any], layout: Layout) -> list[Any]:
        """What is said of each dimension, in this layout's order; a row with channels last is an image of one line."""
        if layout == "NCHW":
            return list(shape)
        return [shape[0], *(shape[2:] if len(shape) > 3 else [1, *shape[2:]]), shape[1]]

    @staticmethod
    def arrange(array: Array, layout: Layout) -> Array:
        """A constant with the axes of a tensor of the QDQ graph, in this layout; leading axes of one are left out."""
        if layout == "NHWC":
            array = np.moveaxis(array, 1, -1)
            array = array[:, None] if array.ndim == 3 else array
        while array.ndim > 1 and array.shape[0] == 1:
            array = array[0]
        return array

    def axis(self, axis: int, dims: int, layout: Layout) -> int:
        """Where an axis of a tensor of the QDQ graph lies in this layout."""
        # The last of that number: the one line of a row stands before its channels, as a 1.
        order = self.arranged(range(dims), layout)
        return len(order) - 1 - order[::-1].index(axis % dims)

    def grid(self, spec: QuantSpec) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point as QuantizeLinear and DequantizeLinear take them, at the graph's ends."""
        return self.shared(np.float32(spec.scale)), self.shared(spec.dtype.type(spec.zero_point))

    def symbol(self, value: ir.Value, like: ir.Value, layout: Layout, dtype: np.dtype[Any] = INT32) -> Symbol:
        """A value to compute with, whose last dimensions are those of the QDQ graph's tensor `like`."""
        shape = static_shape(like)
        if shape is None:
            raise LoweringError(f"tensor '{like.name}': its rank is unknown, expected one that the format can lay out")
        return Symbol(self, value, dtype, self.arranged(shape, layout)[1:])

    # Sums of products and of windows.

    def convolve(self, source: ActivationQuantizer, weight: Array, bits: int, shape: Window, groups: int) -> ir.Value:
        """int32 `[N, H', W', O]` of an image's codes and a weight `[O, C / groups, kh, kw]`, without the bias."""
        x, fill, sizes = self.codes(source, "NHWC"), source.grid.zero_point, static_shape(source.codes)
        if groups == 1 and sizes is not None and len(sizes) == 4:
            x, weight, shape = fold_stride(self, x, weight, shape, sizes[2:], fill) or (x, weight, shape)
        return convolve(self, x, weight, bits, shape, groups, fill)

    def multiply(self, source: ActivationQuantizer, rows: Array, bits: int) -> ir.Value:
        """int32 `[..., C]` of codes `[..., K]` and a weight's rows `[C, K]`, without the bias."""
        return multiply(self, self.codes(source), weight_matrix(self, rows, bits), source.grid.zero_point)

    def mean_of_image(self, layer: RequantizedLayer, pixels: int) -> None:
        """The layer's output: the mean over all of the image, so many pixels."""
        codes = self.cast(self.codes(layer.sources[0], "NHWC"), INT32)
        dims = len(self.arranged(static_shape(layer.output) or (), "NHWC"))
        total = self.symbol(codes, layer.output, "NHWC").sum(range(1, dims - 1))
        divide(self, layer, total, pixels, np.array(pixels))

    def reduce(
        self, layer: RequantizedLayer, axes: Sequence[int], numbers: int, *, keepdims: bool, divides: bool
    ) -> None:
        """The layer's output: the sum, or the mean, over axes of the QDQ graph's tensor that hold so many numbers."""
        source = layer.sources[0]
        total = self.symbol(self.cast(self.codes(source), INT32), source.codes, "NCHW").sum(axes, keepdims=keepdims)
        divide(self, layer, total, numbers, np.array(numbers if divides else 1), "NCHW")

    def mean_of_windows(self, layer: RequantizedLayer, shape: Window, pads: Sequence[int], counts: Array) -> None:
        """The layer's output: means under a window; counts `[H', W', 1]`: how many pixels each has that are real."""
        source = layer.sources[0]
        x = pad(self, self.codes(source, "NHWC"), pads, source.grid.zero_point)
        like = self.arranged(static_shape(layer.output) or (), "NHWC")[1:]
        divide(self, layer, window_sums(self, x, shape, like), math.prod(shape.kernel), counts)

    def mean_by_weights(self, layer: RequantizedLayer, total: Symbol, weight: int, layout: Layout) -> None:
        """The layer's output: of sums of codes by integer weights that sum to `weight`."""
        divide(self, layer, total, weight, np.array(weight), layout)

    # Results.

    def define(self, quantizer: ActivationQuantizer, value: ir.Value, layout: Layout = "NCHW") -> None:
        """`value` holds the quantizer's codes."""
        if (
            value in (known for layouts in self._codes.values() for known in layouts.values())
            or value.producer() is None
        ):
            value = self.node("Identity", [value])
        value.name, value.type = quantizer.codes.name, ir.TensorType(ir.DataType.from_numpy(quantizer.grid.dtype))
        self._register(quantizer.output, value, str(quantizer.codes.name), quantizer.codes.shape, layout)

    def define_rounded(self, quantizer: ActivationQuantizer, value: ir.Value, layout: Layout = "NCHW") -> None:
        """`value` is rounded to the quantizer's grid; its table follows."""
        if quantizer.table is not None:
            value = self._look_up(value, quantizer.table, quantizer.codes.shape, layout)
        self.define(quantizer, value, layout)

    def _look_up(self, value: ir.Value, table: CodeTable, shape: ir.Shape | None, layout: Layout) -> ir.Value:
        entries, sizes = self.shared(table.saturating()), row_sizes(self.arranged(tuple(shape or ()), layout))
        size = self.node("Shape", [value], np.dtype(np.int64)) if sizes is None else self.integers(sizes)
        row = self.node("Reshape", [value, self.integers([-1])])
        found = self.node("GatherElements", [entries, self.cast(row, INT32)])
        return self.node("Reshape", [found, size])

    def define_clipped(self, quantizer: ActivationQuantizer, value: ir.Value) -> None:
        """`value` saturates to the whole of uint8 and is what the quantizer rounds to, but for its narrower range."""
        spec = quantizer.rounded_to
        if spec.needs_clip and quantizer.table is None:
            bounds = [self.shared(np.uint8(bound)) for bound in (spec.stored_min, spec.stored_max)]
            value = self.node("Clip", [value, *bounds])
        self.define_rounded(quantizer, value)

    def finish(
        self,
        layer: RequantizedLayer,
        accumulator: Symbol,
        layout: Layout,
        *,
        multiplier: npt.ArrayLike = 1,
        shift: npt.ArrayLike,
        bias: npt.ArrayLike = 0,
        accumulators: Range | None = None,
    ) -> None:
        """Requantize int32 sums `[..., C]` to the layer's output, its activation included (see `requantization`)."""
        constants = requantization(multiplier, shift, layer.clipped_to, bias, accumulators)
        self.define_symbol(layer, requantize(accumulator, constants), layout)

    def define_symbol(self, layer: RequantizedLayer, codes: Symbol, layout: Layout) -> None:
        """The layer's output."""
        self.define_rounded(layer.quantizer, codes.astype(layer.quantizer.rounded_to.dtype).handle, layout)

    def finish_weighted(self, layer: InnerWeighted[FinalWeight], sums: ir.Value, layout: Layout) -> None:
        """Bias and requantization of a weighted layer's int32 sums."""
        final, source = layer.weight, layer.sources[0].grid
        rows = to_rows(layer.node, final.codes.astype(np.int64))
        self.finish(
            layer,
            self.symbol(sums, layer.output, layout),
            layout,
            multiplier=final.multiplier,
            shift=layer.quantizer.rounded_to.exponent - source.exponent - final.exponent,
            bias=final.bias,
            accumulators=accumulator_range(rows, source.qmin, source.qmax),
        )

    def finish_last(self, layer: LastLayer[FinalWeight], sums: ir.Value, layout: Layout) -> None:
        """A last layer's int32, bias included, leaves as it is."""
        value = (self.symbol(sums, layer.output, layout) + layer.weight.bias.astype(np.int32)).handle
        value.name = f"{layer.name}_int32"
        self._register(layer.result, value, str(layer.result.name), layer.result.shape, layout)

    def carry(self, layer: RequantizedLayer, value: ir.Value, layout: Layout, carried: QuantSpec) -> None:
        """`value` holds codes of the inputs' grid, within `carried` or to be cut to it."""
        source, spec = layer.sources[0].grid, layer.clipped_to
        held = (min(q.grid.stored_min for q in layer.sources), max(q.grid.stored_max for q in layer.sources))
        low, high = max(held[0], carried.stored_min), min(held[1], carried.stored_max)
        same = (spec.exponent, spec.zero_point) == (source.exponent, source.zero_point)
        if same:
            low, high = max(low, spec.stored_min), min(high, spec.stored_max)
        if (low, high) != held:
            value = self.node("Clip", [value, self.shared(np.uint8(low)), self.shared(np.uint8(high))])
        if same:
            self.define_rounded(layer.quantizer, value, layout)
            return
        self.move(layer, self.symbol(value, layer.quantizer.codes, layout, source.dtype), source, layout)

    def move(self, layer: RequantizedLayer, codes: Symbol, source: QuantSpec, layout: Layout) -> None:
        """Codes of `source` on the layer's target, rounded half to even."""
        self.finish(
            layer,
            codes.astype(INT32),
            layout,
            shift=layer.clipped_to.exponent - source.exponent,
            bias=-source.zero_point,
            accumulators=(source.stored_min, source.stored_max),
        )

    def moved(self, layer: RequantizedLayer, source: ActivationQuantizer, layout: Layout) -> ir.Value:
        """The source's codes on the grid of the layer's quantizer, in the layout that they have."""
        codes = self.symbol(self.codes(source, layout), source.codes, layout, UINT8)
        return on_grid(codes.astype(INT32), source.grid, layer.quantizer.rounded_to).astype(UINT8).handle

    def _register(self, key: ir.Value, value: ir.Value, codes_of: str, shape: ir.Shape | None, layout: Layout) -> None:
        known = {layout: value}
        if layout == "NHWC" and shape is not None and len(shape) == 3:
            # The QDQ graph's row is an image of one line here; what is compared is the row.
            square = self.transpose(value, TO_NCHW, _numpy_type(value))
            value = self.node("Squeeze", [square, self.integers([2])], _numpy_type(value))
            known, layout = {"NCHW": value}, "NCHW"
        if shape is not None:
            value.shape = ir.Shape(self.arranged(tuple(shape), layout))
        mark(value, codes_of, layout)
        self._codes[key] = known

    def _in_layout(self, key: ir.Value, layout: Layout, shape: ir.Shape | None, dtype: np.dtype[Any]) -> ir.Value:
        known = self._codes[key]
        if layout not in known:
            known[layout] = self._convert(next(iter(known.values())), layout, shape, dtype)
        return known[layout]

    def _convert(self, value: ir.Value, layout: Layout, shape: ir.Shape | None, dtype: np.dtype[Any]) -> ir.Value:
        dims = None if shape is None else [size if isinstance(size, int) else None for size in shape]
        if dims is not None and all(dim == 1 for dim in dims[2:]) and dims[1] is not None:
            target = [0, *(size or 1 for size in self.arranged(dims, layout)[1:])]
            return self.node("Reshape", [value, self.integers(target)], dtype)
        if layout == "NHWC" and dims is not None and len(dims) == 3:
            value = self.node("Unsqueeze", [value, self.integers([2])], dtype)
        last = 3 if dims is None else max(len(dims), 4) - 1
        order = (0, *range(2, last + 1), 1) if layout == "NHWC" else (0, last, *range(1, last))
        return self.transpose(value, order, dtype)


def _numpy_type(value: ir.Value) -> np.dtype[Any]:
    assert value.type is not None
    return value.type.dtype.numpy()
