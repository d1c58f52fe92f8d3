"""Write an integer graph: standard operators on integer tensors alone, channels last where convolutions are.

Every requantized value says which tensor of the QDQ graph it equals, and in which layout (metadata `qpipe.codes_of`,
`qpipe.layout`), so that the gate can compare the two. The arithmetic is `qpipe.arith.quantize`'s, interpreted by
`qpipe.arith.symbolic`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.arith.quantize import accumulator_range, requantization, requantize
from qpipe.arith.spec import QuantSpec
from qpipe.arith.symbolic import INT32, SYMBOLIC, UINT8, Symbol
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.view import InnerWeighted, LastLayer, RequantizedLayer
from qpipe.ir.quantized.view_weights import FinalWeight
from qpipe.ir.quantized.weight_layout import to_rows
from qpipe.lowering.marks import mark
from qpipe.nodes import initializer, static_shape

Array = npt.NDArray[Any]
Layout = Literal["NCHW", "NHWC"]
Range = tuple[npt.ArrayLike, npt.ArrayLike]

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
MIN_RUN = 256
"""Elements that a constant should have: onnxruntime broadcasts a shorter one along the channels slowly."""


class IntegerBuilder:
    """Collects `nodes`; constants go to `graph` at once. `weights` is "int8" or "uint8" (zero point 128)."""

    def __init__(self, graph: ir.Graph, *, weights: str = "int8") -> None:
        self.graph = graph
        self.weights = weights
        self.nodes: list[ir.Node] = []
        self._scope, self._count = "", 0
        taken = ir.convenience.create_value_mapping(graph)
        self._names = (name for number in itertools.count() if (name := f"i{number}") not in taken)
        self._codes: dict[ir.Value, dict[Layout, ir.Value]] = {}
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._casts: dict[tuple[ir.Value, np.dtype[Any]], ir.Value] = {}

    def start(self, name: str) -> None:
        """What is emitted from now on belongs to the layer of this name: it begins theirs."""
        self._scope, self._count = name, 0

    def emit(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        dtype: ir.DataType = ir.DataType.UINT8,
    ) -> ir.Value:
        """Add a node of the standard domain; its output has a short name: there are many, and each is read by name."""
        node = ir.node(op_type, inputs, dict(attributes or {}), name=name)
        output = node.outputs[0]
        output.name, output.type = next(self._names), ir.TensorType(dtype)
        self.nodes.append(node)
        return output

    def node(
        self, op_type: str, inputs: Sequence[ir.Value | None], dtype: np.dtype[Any] = UINT8, **attributes: Any
    ) -> ir.Value:
        """Add a node that is named after the layer at work."""
        self._count += 1
        name = f"{self._scope}/{self._count}_{op_type}"
        return self.emit(op_type, inputs, name=name, attributes=attributes, dtype=ir.DataType.from_numpy(dtype))

    def emit_copy(self, node: ir.Node, inputs: Sequence[ir.Value]) -> ir.Value:
        """The node itself on other data; its constant arguments stay."""
        arguments = [*inputs, *node.inputs[len(inputs) :]]
        return self.emit(node.op_type, arguments, name=self.scoped(node.op_type), attributes=node.attributes)

    def scoped(self, name: str) -> str:
        """A name that belongs to the layer at work."""
        return f"{self._scope}/{name}"

    def cast(self, value: ir.Value, dtype: np.dtype[Any]) -> ir.Value:
        """Cast, once for a value and a type."""
        if (value, dtype) not in self._casts:
            self._casts[value, dtype] = self.node("Cast", [value], dtype, to=ir.DataType.from_numpy(dtype))
        return self._casts[value, dtype]

    def constant(self, name: str, array: Any) -> ir.Value:
        """An initializer of its own: an array or a tensor."""
        return initializer(self.graph, name, array)

    def shared(self, array: Array | np.generic) -> ir.Value:
        """An initializer that all who ask for these numbers share."""
        array = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            text = f"{array.dtype}_{array.item()}" if array.size == 1 else f"{self._scope}/constant"
            self._constants[key] = self.constant(text.replace("-", "minus_"), array)
        return self._constants[key]

    def integers(self, values: Sequence[int]) -> ir.Value:
        """A shared int64 list: shapes, axes, bounds."""
        return self.shared(np.array(values, np.int64))

    def operand(self, array: Array, sizes: Sequence[int | None]) -> ir.Value:
        """A constant to broadcast: one along the channels is repeated along the row, so that it is a longer run.

        The file holds it once: an Expand of constants is folded when a session starts.
        """
        stored, target = self.shared(array), list(array.shape)
        if array.ndim != 1:
            return stored
        for size in reversed(sizes[:-1]):
            if size is None or math.prod(target) >= MIN_RUN:
                break
            target.insert(0, size)
        if len(target) == 1:
            return stored
        key = ("expanded", stored, *target)
        if key not in self._constants:
            self._constants[key] = self.node("Expand", [stored, self.integers(target)], array.dtype)
        return self._constants[key]

    def slice(self, value: ir.Value, axes: Mapping[int, slice], dtype: np.dtype[Any] = UINT8) -> ir.Value:
        """A part of the value; `axes` gives the bounds of each axis that is cut."""
        parts = [
            [part.start or 0 for part in axes.values()],
            [np.iinfo(np.int64).max if part.stop is None else part.stop for part in axes.values()],
            list(axes),
            [part.step or 1 for part in axes.values()],
        ]
        return self.node("Slice", [value, *(self.integers(part) for part in parts)], dtype)

    def concat(self, values: Sequence[ir.Value], axis: int, dtype: np.dtype[Any] = UINT8) -> ir.Value:
        """The values side by side; a single one as it is."""
        return values[0] if len(values) == 1 else self.node("Concat", list(values), dtype, axis=axis)

    def transpose(self, value: ir.Value, order: Sequence[int], dtype: np.dtype[Any] = UINT8) -> ir.Value:
        """Axes in this order."""
        return self.node("Transpose", [value], dtype, perm=list(order))

    # Quantized tensors in one layout or the other.

    def layout(self, quantizer: ActivationQuantizer) -> Layout:
        """The layout in which the tensor was computed."""
        return next(iter(self._codes[quantizer.output]))

    def common_layout(self, quantizers: Sequence[ActivationQuantizer]) -> Layout:
        """Channels last where any tensor has it, else the specification's own."""
        return "NHWC" if any(self.layout(q) == "NHWC" for q in quantizers) else "NCHW"

    def codes(self, quantizer: ActivationQuantizer, layout: Layout = "NCHW") -> ir.Value:
        """The tensor's codes, in the specification's own layout or channels last; converted once."""
        return self._in_layout(quantizer.output, layout, quantizer.codes.shape, UINT8)

    def result(self, value: ir.Value) -> ir.Value:
        """The integers of a dequantized value, or a last layer's int32, in the specification's own layout."""
        return self._in_layout(value, "NCHW", value.shape, _numpy_type(next(iter(self._codes[value].values()))))

    @staticmethod
    def arranged(shape: Sequence[Any], layout: Layout) -> list[Any]:
        """What is said of each dimension, in this layout's order; a row with channels last is an image of one line."""
        if layout == "NCHW":
            return list(shape)
        return [shape[0], *(shape[2:] if len(shape) == 4 else [1, *shape[2:]]), shape[1]]

    def axis(self, axis: int, dims: int, layout: Layout) -> int:
        """Where an axis of a tensor of the QDQ graph lies in this layout."""
        return self.arranged(range(dims), layout).index(axis % dims)

    def grid(self, spec: QuantSpec) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point as QuantizeLinear and DequantizeLinear take them, at the graph's ends."""
        return self.shared(np.float32(spec.scale)), self.shared(np.uint8(spec.zero_point))

    def symbol(self, value: ir.Value, like: ir.Value, layout: Layout, dtype: np.dtype[Any] = INT32) -> Symbol:
        """A value to compute with, whose last dimensions are those of the QDQ graph's tensor `like`."""
        return Symbol(self, value, dtype, self.arranged(static_shape(like) or (), layout)[1:])

    # Results.

    def define(self, quantizer: ActivationQuantizer, value: ir.Value, layout: Layout = "NCHW") -> None:
        """`value` holds the quantizer's codes."""
        if (
            value in (known for layouts in self._codes.values() for known in layouts.values())
            or value.producer() is None
        ):
            value = self.node("Identity", [value])
        value.name = quantizer.codes.name
        self._register(quantizer.output, value, str(quantizer.codes.name), quantizer.codes.shape, layout)

    def define_rounded(self, quantizer: ActivationQuantizer, value: ir.Value, layout: Layout = "NCHW") -> None:
        """`value` is rounded to the quantizer's grid; its table follows."""
        if quantizer.table is not None:
            value = self.node("Gather", [self.shared(quantizer.table.array()), self.cast(value, INT32)])
        self.define(quantizer, value, layout)

    def define_clipped(self, quantizer: ActivationQuantizer, value: ir.Value) -> None:
        """`value` saturates to the whole of uint8 and is what the quantizer rounds to, but for its narrower range."""
        spec = quantizer.before
        if spec.needs_clip:
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
        constants = requantization(multiplier, shift, layer.target, bias, accumulators)
        self.define_symbol(layer, requantize(accumulator, constants, SYMBOLIC), layout)

    def define_symbol(self, layer: RequantizedLayer, codes: Symbol, layout: Layout) -> None:
        """The layer's output."""
        self.define_rounded(layer.quantizer, codes.astype(UINT8).handle, layout)

    def finish_weighted(self, layer: InnerWeighted[FinalWeight], sums: ir.Value, layout: Layout) -> None:
        """Bias and requantization of a weighted layer's int32 sums."""
        final, source = layer.weight, layer.sources[0].spec
        rows = to_rows(layer.node, final.codes.astype(np.int64))
        self.finish(
            layer,
            self.symbol(sums, layer.output, layout),
            layout,
            multiplier=final.multiplier,
            shift=layer.quantizer.before.exponent - source.exponent - final.exponent,
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
        source, spec = layer.sources[0].spec, layer.target
        held = (min(q.spec.stored_min for q in layer.sources), max(q.spec.stored_max for q in layer.sources))
        low, high = max(held[0], carried.stored_min), min(held[1], carried.stored_max)
        same = (spec.exponent, spec.zero_point) == (source.exponent, source.zero_point)
        if same:
            low, high = max(low, spec.stored_min), min(high, spec.stored_max)
        if (low, high) != held:
            value = self.node("Clip", [value, self.shared(np.uint8(low)), self.shared(np.uint8(high))])
        if same:
            self.define_rounded(layer.quantizer, value, layout)
            return
        self.move(layer, self.symbol(value, layer.quantizer.codes, layout, UINT8), source, layout)

    def move(self, layer: RequantizedLayer, codes: Symbol, source: QuantSpec, layout: Layout) -> None:
        """Codes of `source` on the layer's target, rounded half to even."""
        self.finish(
            layer,
            codes.astype(INT32),
            layout,
            shift=layer.target.exponent - source.exponent,
            bias=-source.zero_point,
            accumulators=(source.stored_min, source.stored_max),
        )

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
        return self.transpose(value, TO_NHWC if layout == "NHWC" else TO_NCHW, dtype)


def _numpy_type(value: ir.Value) -> np.dtype[Any]:
    assert value.type is not None
    return value.type.dtype.numpy()
