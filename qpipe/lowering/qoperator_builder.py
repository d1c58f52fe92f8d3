"""Write a qoperator graph: uint8 tensors between onnxruntime's integer operators, each on its quantizer's grid.

Every requantized value says which tensor of the QDQ graph it equals (metadata `qpipe.codes_of`), so that the gate can
compare the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.arith.quantize import on_grid
from qpipe.arith.spec import STORAGE_MAX, QuantSpec
from qpipe.arith.symbolic import INT32, DType, Emitter, Symbol
from qpipe.arith.table import row_sizes
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.view import LastLayer, QuantizedLayer, RequantizedLayer, Weighted
from qpipe.ir.quantized.view_weights import FinalWeight
from qpipe.ir.quantized.weight_codes import PACKED, stored_weight
from qpipe.lowering.marks import mark
from qpipe.nodes import MICROSOFT, initializer

Attributes = Mapping[str, Any]


class QOperatorBuilder:
    """Collects `nodes`; `weights` is "int8", or "uint8" (zero point 128: exact also where int16 pairs would saturate).

    portable: whether int8 weights must stay safe for kernels that add two products in a saturating int16.
    """

    def __init__(self, graph: ir.Graph, *, weights: str = "int8", portable: bool = True) -> None:
        """The constants go to `graph` at once, the nodes when the caller adds them."""
        self.graph = graph
        self.weights = weights
        self.portable = portable
        self.nodes: list[ir.Node] = []
        self._codes: dict[ir.Value, ir.Value] = {}
        self._scalars: dict[str, ir.Value] = {}

    def codes(self, quantizer: ActivationQuantizer) -> ir.Value:
        """The uint8 value that the quantizer's readers read."""
        return self._codes[quantizer.output]

    def emit(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        name: str,
        attributes: Attributes | None = None,
        domain: str = "",
        dtype: ir.DataType = ir.DataType.UINT8,
        shape: ir.Shape | None = None,
    ) -> ir.Value:
        """Add a node; its output has the node's name with `_output` added."""
        node = ir.node(op_type, inputs, dict(attributes or {}), domain=domain, name=name)
        output = node.outputs[0]
        output.name, output.type = f"{name}_output", ir.TensorType(dtype)
        output.shape = None if shape is None else shape.copy()
        self.nodes.append(node)
        return output

    def steps(self, scope: str) -> Emitter:
        """What writes a layer's standard operators, in the interpreter of the arithmetic (`qpipe.arith.symbolic`)."""
        return _Steps(self, scope)

    def emit_copy(self, node: ir.Node, inputs: Sequence[ir.Value]) -> ir.Value:
        """The node itself on other data; its constant arguments stay."""
        arguments = [*inputs, *node.inputs[len(inputs) :]]
        return self.emit(node.op_type, arguments, name=str(node.name), attributes=node.attributes)

    def constant(self, name: str, array: npt.NDArray[Any] | ir.TensorProtocol) -> ir.Value:
        """An initializer of its own."""
        return initializer(self.graph, name, array)

    def scalar(self, name: str, value: np.generic | npt.NDArray[Any]) -> ir.Value:
        """An initializer that all who ask for this name share."""
        if name not in self._scalars:
            self._scalars[name] = initializer(self.graph, name, np.asarray(value))
        return self._scalars[name]

    def scale(self, spec: QuantSpec, sign: int = 1) -> ir.Value:
        """float32 scalar; with a sign of -1 integers stand for numbers of the other sign."""
        return self.scalar(f"scale_{'minus_' * (sign < 0)}2^{spec.exponent}", np.float32(sign * spec.scale))

    def zero_point(self, spec: QuantSpec) -> ir.Value:
        """A scalar of the codes' type."""
        return self.scalar(f"{spec.dtype}_{spec.zero_point}", spec.dtype.type(spec.zero_point))

    def code(self, value: int) -> ir.Value:
        """A uint8 scalar."""
        return self.scalar(f"uint8_{value}", np.uint8(value))

    def grid(self, spec: QuantSpec) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point, as the operators take them."""
        return self.scale(spec), self.zero_point(spec)

    def quantized_inputs(self, layer: QuantizedLayer) -> list[ir.Value]:
        """Codes, scale and zero point of each of the layer's inputs, one after the other."""
        return [value for q in layer.sources for value in (self.codes(q), *self.grid(q.grid))]

    def weight(
        self, layer: Weighted[FinalWeight], codes: npt.NDArray[np.int8] | None = None
    ) -> tuple[ir.Value, ir.Value]:
        """Codes (the layer's, or these in another order) and zero point of the layer's weight.

        int8 or uint8; one of 4 bits or fewer is packed, behind a Cast to int8, and pair-safe as it is.
        """
        final = layer.weight
        codes = final.codes if codes is None else codes
        tensor, zero_point = stored_weight(codes, final.bits, self.weights)
        value = self.constant(f"{layer.name}_weight", tensor)
        if tensor.dtype in PACKED:
            cast = {"to": ir.DataType.INT8}
            value = self.emit(
                "Cast", [value], name=f"{layer.name}_weight_cast", attributes=cast, dtype=ir.DataType.INT8
            )
            value.shape = ir.Shape(codes.shape)
        return value, self.scalar(f"{zero_point.dtype}_{zero_point}", zero_point)

    def weight_scale(self, layer: Weighted[FinalWeight]) -> ir.Value:
        """float32 `[C]`: `multiplier * 2**exponent`."""
        return self.constant(f"{layer.name}_weight_scale", layer.weight.scales)

    def bias(self, layer: Weighted[FinalWeight]) -> ir.Value | None:
        """int32 `[C]`, None where it is zero."""
        bias = layer.weight.bias.astype(np.int32)
        return self.constant(f"{layer.name}_bias", bias) if bias.any() else None

    def spread(self, layer: Weighted[FinalWeight], zero_point: ir.Value) -> ir.Value:
        """A weight's zero point as one for each channel, beside as many scales."""
        assert zero_point.const_value is not None
        repeated = np.repeat(zero_point.const_value.numpy(), len(layer.weight.bias))
        return self.constant(f"{layer.name}_weight_zero_point", repeated)

    def add_bias(self, layer: Weighted[FinalWeight], value: ir.Value, *, spatial: int = 0) -> ir.Value:
        """An int32 accumulator with its bias, which goes to axis 1 where there are `spatial` axes behind it."""
        bias = layer.weight.bias.astype(np.int32)
        if not bias.any():
            return value
        shaped = self.constant(f"{layer.name}_bias", bias.reshape(-1, *[1] * spatial))
        return self.emit("Add", [value, shaped], name=f"{layer.name}_add_bias", dtype=ir.DataType.INT32)

    def define_input(self, quantizer: ActivationQuantizer, value: ir.Value) -> None:
        """`value` saturates to the whole of uint8 and is the quantizer's, but for its narrower range and its table."""
        self._define_cut(quantizer, value, (0, STORAGE_MAX), quantizer.rounded_to, str(quantizer.codes.name))

    def adopt_input(self, quantizer: ActivationQuantizer, value: ir.Value) -> None:
        """`value` holds the quantizer's codes; another builder made it."""
        self._codes[quantizer.output] = value

    def finish(self, layer: RequantizedLayer, value: ir.Value) -> None:
        """`value` is the layer's result on its target, within uint8; activation, range and table follow."""
        self._define_cut(layer.quantizer, value, (0, STORAGE_MAX), layer.clipped_to, layer.name)

    def carry(self, layer: RequantizedLayer, value: ir.Value, carried: QuantSpec) -> None:
        """`value` holds codes of the inputs' grid, within `carried` or to be cut to it."""
        spec, source = layer.quantizer.rounded_to, layer.sources[0].grid
        held = (min(q.grid.stored_min for q in layer.sources), max(q.grid.stored_max for q in layer.sources))
        if (spec.exponent, spec.zero_point) == (source.exponent, source.zero_point):
            both = QuantSpec(spec.exponent, max(spec.qmin, carried.qmin), min(spec.qmax, carried.qmax), spec.zero_point)
            self._define_cut(layer.quantizer, value, held, both, layer.name)
        else:
            value = self._clip(value, held, carried, f"{layer.name}_carried")
            moved = self.move(value, carried, spec, layer.name)
            self._define_cut(layer.quantizer, moved, (0, STORAGE_MAX), spec, layer.name)

    def move(self, value: ir.Value, source: QuantSpec, target: QuantSpec, name: str) -> ir.Value:
        """Codes on another grid, rounded half to even: a QLinearConcat of one, which onnxruntime does by table.

        Those of 16 bits by standard operators on int32.
        """
        if source.is_wide or target.is_wide:
            codes = Symbol(self.steps(name), value, source.dtype).astype(INT32)
            return on_grid(codes, source, target).astype(target.dtype).handle
        inputs = [*self.grid(target), value, *self.grid(source)]
        return self.emit("QLinearConcat", inputs, name=f"{name}_requantize", attributes={"axis": 0}, domain=MICROSOFT)

    def finish_last(self, layer: LastLayer[FinalWeight], value: ir.Value) -> None:
        """`value` is a last layer's int32 accumulator, bias included."""
        value.shape = None if layer.result.shape is None else layer.result.shape.copy()
        mark(value, layer.result.name)
        self._codes[layer.result] = value

    def result(self, value: ir.Value) -> ir.Value:
        """The integers of a dequantized value, or a last layer's int32."""
        return self._codes[value]

    def _clip(self, value: ir.Value, held: tuple[int, int], spec: QuantSpec, name: str) -> ir.Value:
        """Cut codes that lie in `held` to the spec's range; those of 16 bits use all of theirs."""
        if spec.is_wide or (spec.stored_min <= held[0] and held[1] <= spec.stored_max):
            return value
        bounds = [self.code(max(spec.stored_min, held[0])), self.code(min(spec.stored_max, held[1]))]
        return self.emit("Clip", [value, *bounds], name=f"{name}_clip")

    def _define_cut(
        self, quantizer: ActivationQuantizer, value: ir.Value, held: tuple[int, int], spec: QuantSpec, name: str
    ) -> None:
        """`value` holds the quantizer's codes, but for the spec's range and its table, which has the range in it."""
        if quantizer.table is None:
            self.define(quantizer, self._clip(value, held, spec, name))
        else:
            self.define(quantizer, self._look_up(quantizer, value, quantizer.table.saturating(spec)))

    def _look_up(self, quantizer: ActivationQuantizer, value: ir.Value, entries: npt.NDArray[np.uint8]) -> ir.Value:
        """What a table has at these codes, along one row (see `row_sizes`).

        Of a convolution's images the row has channels last, as onnxruntime computes them. It pushes Transposes through
        what is elementwise, where they meet their inverse, but not through this Reshape.
        """
        name, shape = str(quantizer.codes.name), tuple(quantizer.codes.shape or ())
        producer, dims = value.producer(), range(len(shape))
        channels_last = [0, *dims[2:], 1] if producer is not None and producer.op_type == "QLinearConv" else [*dims]
        value = self._transpose(value, channels_last, f"{name}_channels_last")
        if (sizes := row_sizes([shape[i] for i in channels_last])) is None:
            size = self.emit("Shape", [value], name=f"{name}_shape", dtype=ir.DataType.INT64)
        else:
            size = self.scalar(f"shape_{'_'.join(map(str, sizes))}", np.array(sizes))
        row = self.emit("Reshape", [value, self.scalar("one_row", np.array([-1]))], name=f"{name}_row")
        to_int32 = {"to": ir.DataType.INT32}
        index = self.emit("Cast", [row], name=f"{name}_index", attributes=to_int32, dtype=ir.DataType.INT32)
        found = self.emit("GatherElements", [self.constant(f"{name}_table", entries), index], name=f"{name}_look_up")
        found = self.emit("Reshape", [found, size], name=f"{name}_from_row")
        return self._transpose(found, np.argsort(channels_last).tolist(), f"{name}_channels_first")

    def _transpose(self, value: ir.Value, order: Sequence[int], name: str) -> ir.Value:
        if list(order) == sorted(order):
            return value
        return self.emit("Transpose", [value], name=name, attributes={"perm": order})

    def define(self, quantizer: ActivationQuantizer, value: ir.Value) -> None:
        """`value` holds the quantizer's codes."""
        if value in self._codes.values():
            # Two tensors of the QDQ graph hold the same integers, and each is compared.
            value = self.emit("Identity", [value], name=f"{quantizer.codes.name}_identity")
        value.name, value.type = quantizer.codes.name, ir.TensorType(ir.DataType.from_numpy(quantizer.grid.dtype))
        value.shape = None if quantizer.codes.shape is None else quantizer.codes.shape.copy()
        mark(value, quantizer.codes.name)
        self._codes[quantizer.output] = value


class _Steps:
    """Nodes of the standard domain, numbered within a layer."""

    def __init__(self, builder: QOperatorBuilder, scope: str) -> None:
        self._builder, self._scope, self._count = builder, scope, 0

    def node(self, op_type: str, inputs: Sequence[ir.Value], dtype: DType, **attributes: Any) -> ir.Value:
        self._count += 1
        name, kind = f"{self._scope}/{self._count}_{op_type}", ir.DataType.from_numpy(dtype)
        return self._builder.emit(op_type, inputs, name=name, attributes=attributes, dtype=kind)

    def cast(self, value: ir.Value, dtype: DType) -> ir.Value:
        return self.node("Cast", [value], dtype, to=ir.DataType.from_numpy(dtype))

    def operand(self, array: npt.NDArray[Any], sizes: Sequence[int | None]) -> ir.Value:
        if array.ndim:
            return self._builder.constant(f"{self._scope}/constant", array)
        return self._builder.scalar(f"{array.dtype}_{array.item()}", array)
