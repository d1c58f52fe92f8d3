"""Let a quantized file of another tool take and give real numbers where it takes and gives integers.

    x: int8 -> DequantizeLinear   becomes   x: float32 -> QuantizeLinear -> DequantizeLinear
    QuantizeLinear -> y: int8     becomes   QuantizeLinear -> DequantizeLinear -> y: float32

on the grid that the file itself has there. TensorFlow Lite's fully integer networks are such (`inference_input_type`);
so they run beside float ones, on the same data. Between the two there may be what only moves numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import onnx_ir as ir

from qpipe.nodes import constant_array, name_value
from qpipe.ops import op_of
from qpipe.ops.quantizer_parts import dequantizes, quantizes

_NARROW: Final = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16})
_PARTS: Final = 3  # of a node's inputs: what it reads, a scale, a zero point
_REAL: Final = ir.TensorType(ir.DataType.FLOAT)


@dataclass(frozen=True, kw_only=True)
class RealEnds(ir.passes.InPlacePass):
    """Inputs and outputs of 8 and 16 bits on a grid of one scale and one zero point; others stay as they are."""

    name: ClassVar[str] = "real-ends"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change every one."""
        graph = model.graph
        begun = [_take_real(graph, value) for value in graph.inputs if value.dtype in _NARROW]
        ended = [_give_real(graph, value) for value in graph.outputs if value.dtype in _NARROW]
        return ir.passes.PassResult(model, any([*begun, *ended]))


def _take_real(graph: ir.Graph, value: ir.Value) -> bool:
    border = _of_one_grid(_borders_behind(value))
    if border is None or value.is_graph_output():
        return False
    quantize = ir.node("QuantizeLinear", [None, *border.inputs[1:_PARTS]], name=f"{value.name}_quantize")
    codes = quantize.outputs[0]
    value.replace_all_uses_with(codes)
    quantize.replace_input_with(0, value)
    codes.name, codes.type, codes.shape = f"{value.name}_codes", value.type, value.shape
    value.type = _REAL
    graph.insert_before(graph[0], quantize)
    return True


def _give_real(graph: ir.Graph, value: ir.Value) -> bool:
    border = _of_one_grid([_border_before(value)])
    if border is None:
        return False
    name = str(value.name)
    dequantize = ir.node("DequantizeLinear", [value, *border.inputs[1:_PARTS]], name=f"{name}_dequantize")
    value.name = f"{name}_codes"
    name_value(dequantize.outputs[0], name, _REAL, value.shape)
    graph.outputs[graph.outputs.index(value)] = dequantize.outputs[0]
    graph.append(dequantize)
    return True


def _borders_behind(codes: ir.Value) -> Iterator[ir.Node | None]:
    """The DequantizeLinear at the end of each way on from these codes; None where something else reads them."""
    for node, index in codes.uses():
        if index == 0 and dequantizes(node):
            yield node
        elif index == 0 and op_of(node).only_reshapes:
            yield from _borders_behind(node.outputs[0])
        else:
            yield None


def _border_before(codes: ir.Value) -> ir.Node | None:
    """The QuantizeLinear that made these codes."""
    node = codes.producer()
    while node is not None and op_of(node).only_reshapes and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node if quantizes(node) else None


def _of_one_grid(borders: Iterable[ir.Node | None]) -> ir.Node | None:
    """The first of them, if all have its scale and its zero point, each a constant number."""
    first, grids = None, set()
    for border in borders:
        parts = [] if border is None else [constant_array(value) for value in border.inputs[1:]]
        numbers = [part.item() for part in parts if part is not None and part.size == 1]
        if len(numbers) != _PARTS - 1:
            return None
        first = first or border
        grids.add(tuple(numbers))
    return first if len(grids) == 1 else None
