"""Take another tool's quantizers for what they say, the range of a tensor, and leave the float network behind them.

    DequantizeLinear(QuantizeLinear(x))   becomes   x,   whose range is [(qmin - zero) scale, (qmax - zero) scale]

A constant behind a DequantizeLinear is the real number that it stands for; a constant in front of a quantizer stays as
it is. What only carries integers between the two carries real numbers. An input or an output of integers is one of real
numbers. Where a layer's result can be negative and its quantizer begins at 0, the quantizer did the work of a Relu, or
of a Relu6 where it ends at 6; tools take these out, and here they stand again.

What the tool left in float stays so: a layer of weights whose data or weights are no dequantized integers is marked
(`STAYS_FLOAT`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from passes.quantizing.calibrate_percentile import RANGE_KEY, write_range
from qpipe.calibration.observe import ObservedRange
from qpipe.errors import ModelError
from qpipe.ir.graph.ending import remove_unused
from qpipe.ir.graph.layers import STAYS_FLOAT
from qpipe.nodes import AnyArray, constant_array, describe, initializer, int_attribute, name_value
from qpipe.ops import Role, has_weights, op_of
from qpipe.ops.quantizer_parts import dequantizes, limits_codes, quantizes

_CODES: Final = "qpipe.codes"
"""Of a quantizer: the least and the largest code that it gives."""
_SIX: Final = (6.0, 0.02)
"""The bound of a Relu6, and how far off an 8-bit grid's end may lie."""
_ZERO_POINT: Final = 2  # the input


@dataclass(frozen=True, kw_only=True)
class AdoptRanges(ir.passes.InPlacePass):
    """QuantizeLinear and DequantizeLinear go; values keep the ranges that they said."""

    name: ClassVar[str] = "adopt-ranges"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raise ModelError where a scale is computed, or something computes on integers."""
        graph = model.graph
        _take_narrower_ranges(graph)
        borders = [node for node in graph if quantizes(node) or dequantizes(node)]
        for node in borders:
            _say_zero_point(graph, node)
        codes = {value: node for node in borders if dequantizes(node) for value in _codes_before(node)}
        _mark_floats(graph)
        # Before their quantizers, whose inputs say what they are, are gone.
        for value, node in codes.items():
            constant = constant_array(value)
            if constant is None:
                value.type = ir.TensorType(ir.DataType.FLOAT)
            else:
                value.replace_all_uses_with(initializer(graph, f"{value.name}_real", _real(constant, node)))
        for node in borders:
            (_take_quantizer if quantizes(node) else _take_dequantizer)(graph, node)
        remove_unused(model)
        return ir.passes.PassResult(model, bool(borders))


def adopted_ranges(graph: ir.Graph) -> int:
    """How many tensors have a range that a quantizer said."""
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    return sum(RANGE_KEY in value.metadata_props for value in values)


def _take_narrower_ranges(graph: ir.Graph) -> None:
    """A Clip of a quantizer's codes, as Brevitas writes widths that no integer type has, is the quantizer's."""
    for node in list(graph):
        quantizer = node.inputs[0].producer() if limits_codes(node) and node.inputs[0] is not None else None
        if quantizer is None or not quantizes(quantizer):
            continue
        bounds = [constant_array(value) for value in node.inputs[1:3]]
        if len(bounds) < 2 or any(bound is None or bound.size != 1 for bound in bounds):
            raise ModelError(f"{describe(node)}: a bound of the codes is computed or missing, expected two constants")
        quantizer.meta[_CODES] = tuple(int(bound.reshape(-1)[0]) for bound in bounds if bound is not None)
        ir.convenience.replace_all_uses_with(node.outputs[0], quantizer.outputs[0])
        graph.remove(node, safe=True)


def _mark_floats(graph: ir.Graph) -> None:
    """Layers of weights one of whose factors comes from no DequantizeLinear."""
    for node in graph:
        factors = [value for value in node.inputs[:2] if value is not None]
        if op_of(node).role is Role.COMPUTE and has_weights(node) and not all(map(_is_quantized, factors)):
            node.metadata_props[STAYS_FLOAT] = "as the file that it came from has it"


def _is_quantized(value: ir.Value) -> bool:
    """Whether its numbers are those of a DequantizeLinear, moved about."""
    producer = value.producer()
    while producer is not None and not dequantizes(producer) and op_of(producer).role is Role.CARRY:
        value = op_of(producer).operands(producer)[0]
        producer = value.producer()
    return dequantizes(producer)


def _codes_before(node: ir.Node) -> list[ir.Value]:
    """The integers that lead from quantizers, inputs and constants to a DequantizeLinear, all on its grid.

    Not those of a constant that it reads itself. ModelError where any are computed.
    """
    found: list[ir.Value] = []
    stack = [value for value in node.inputs[:1] if value is not None and constant_array(value) is None]
    while stack:
        value = stack.pop()
        found.append(value)
        producer = value.producer()
        if producer is None or quantizes(producer):
            continue
        if op_of(producer).role is not Role.CARRY or op_of(producer).activation(producer) is not None:
            raise ModelError(f"{describe(producer)}: computes on integers, expected it between DequantizeLinears")
        stack += [each for each in producer.inputs if each is not None and each.dtype == value.dtype]
    return found


def _take_dequantizer(graph: ir.Graph, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    codes = constant_array(source)
    if codes is None or codes.dtype.kind == "f":
        # A constant in front of a quantizer is the number that was trained.
        _note(source, node)
        _give(graph, node, source)
        return
    real = initializer(graph, str(result.name), _real(codes, node))
    result.replace_all_uses_with(real, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _take_quantizer(graph: ir.Graph, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None
    if constant_array(source) is None:
        source = _with_its_activation(graph, source, *_range(node))
        _note(source, node)
    _give(graph, node, source)


def _give(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Let the readers of a quantizer's node read `value`; an output stays where it is, under its name."""
    result = node.outputs[0]
    if result.is_graph_output() and (value.is_graph_input() or value.is_graph_output()):
        same = ir.node("Identity", [value], name=f"{node.name or result.name}_same")
        name_value(same.outputs[0], str(result.name), ir.TensorType(ir.DataType.FLOAT), result.shape)
        graph.insert_after(node, same)
        value = same.outputs[0]
    elif result.is_graph_output():
        value.name, value.shape = result.name, result.shape
    result.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _note(value: ir.Value, node: ir.Node) -> None:
    """Leave on the value what the first quantizer says of it; nothing on a constant."""
    if constant_array(value) is None and RANGE_KEY not in value.metadata_props:
        low, high = _range(node)
        write_range(value, ObservedRange(max(high, -low), low < 0, is_given=True))


def _with_its_activation(graph: ir.Graph, value: ir.Value, low: float, high: float) -> ir.Value:
    """The value behind the Relu or Relu6 that its quantizer was, where it was one."""
    producer = value.producer()
    if low != 0 or producer is None or op_of(producer).role not in {Role.COMPUTE, Role.JOIN}:
        return value
    if op_of(producer).sign([True]) is False:
        return value
    is_six = abs(high - _SIX[0]) <= _SIX[1]
    bounds = [initializer(graph, f"{value.name}_{end}", np.float32(end)) for end in (0, 6)] if is_six else []
    node = ir.node("Clip" if is_six else "Relu", [value, *bounds], name=f"{value.name}_activation")
    name_value(node.outputs[0], f"{value.name}_activated", ir.TensorType(ir.DataType.FLOAT), value.shape)
    graph.insert_after(producer, node)
    return node.outputs[0]


def _range(node: ir.Node) -> tuple[float, float]:
    """The real numbers at the ends of a quantizer's codes; of one that has a grid for each channel the outermost."""
    scale, zero = constant_array(node.inputs[1]), _zero_point(node)
    if scale is None:
        raise ModelError(f"{describe(node)}: the scale of an activation is computed, expected a constant")
    low, high = node.meta.get(_CODES) or _bits(node).ends
    step = scale.astype(np.float64)
    return float(np.min((low - zero) * step)), float(np.max((high - zero) * step))


@dataclass(frozen=True)
class _Bits:
    width: int
    signed: bool

    @property
    def ends(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        half = 1 << self.width - 1
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)


def _bits(node: ir.Node) -> _Bits:
    """Of a quantizer's codes, by its zero point."""
    dtype = node.inputs[2].dtype if node.inputs[2] is not None else None
    if dtype is None or not dtype.is_integer():
        raise ModelError(f"{describe(node)}: its codes are {dtype}, expected integers")
    return _Bits(int(dtype.bitwidth), dtype.is_signed())


def _say_zero_point(graph: ir.Graph, node: ir.Node) -> None:
    """One of 0, of the type of its codes, where the node has none."""
    if len(node.inputs) > _ZERO_POINT and node.inputs[_ZERO_POINT] is not None:
        return
    codes = node.inputs[0] if dequantizes(node) else None
    asked = ir.DataType(int_attribute(node, "output_dtype", 0))
    dtype = codes.dtype if codes is not None else asked if asked is not ir.DataType.UNDEFINED else ir.DataType.UINT8
    if dtype is None:
        raise ModelError(f"{describe(node)}: the type of its codes is not known, expected a zero point")
    zero = ir.tensor(np.zeros((), dtype.numpy()), dtype=dtype, name=f"{node.name}_zero")
    node.resize_inputs(_ZERO_POINT + 1)
    node.replace_input_with(_ZERO_POINT, initializer(graph, f"{node.name or node.outputs[0].name}_zero", zero))


def _zero_point(node: ir.Node) -> AnyArray:
    found = constant_array(node.inputs[_ZERO_POINT])
    if found is None:
        raise ModelError(f"{describe(node)}: its zero point is computed, expected a constant")
    return found.astype(np.int64)


def _real(codes: AnyArray, node: ir.Node) -> AnyArray:
    """`(codes - zero) scale`: one scale, one a channel along `axis`, or one a block of `block_size` along it."""
    scale = constant_array(node.inputs[1])
    if scale is None:
        raise ModelError(f"{describe(node)}: its scale is computed, expected a constant")
    zero = _zero_point(node)
    axis, block = int_attribute(node, "axis", 1), int_attribute(node, "block_size", 0)
    codes = codes.astype(np.int64)

    def spread(array: AnyArray) -> AnyArray:
        if array.size == 1:
            return array.reshape(())
        if block:
            return np.repeat(array, block, axis).take(range(codes.shape[axis]), axis)
        shape = [1] * codes.ndim
        shape[axis % codes.ndim] = -1
        return array.reshape(shape)

    return ((codes - spread(zero)) * spread(scale.astype(np.float64))).astype(np.float32)
