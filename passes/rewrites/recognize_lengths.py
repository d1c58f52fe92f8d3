"""Write the root of few squares as their length, which is rounded once (`qpipe.ops.length`).

    Sqrt(ReduceSum(Pow(x, 2)))      =  ReduceL2(x)
    Sqrt(Add(Pow(a, 2), Pow(b, 2))) =  ReduceL2(Reshape(Concat(a, b), [N, 2, C, ...]), axis 1)

as the magnitude of a spectrum is written, of its real and its imaginary part; where both are halves of one tensor, that
is their Concat. What moves numbers between the sum and the root comes behind it. Where it leads to weights alone; a
float one stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.edges import leading_to_weights
from qpipe.ir.graph.rewrite import bypass, only_reader, rewrite
from qpipe.nodes import constant_array, constant_input, initializer, name_value, static_shape
from qpipe.ops import op_of
from qpipe.ops.masks import MOVES

_FLOAT: Final = ir.TensorType(ir.DataType.FLOAT)


@dataclass(frozen=True, kw_only=True)
class RecognizeLengths(ir.passes.InPlacePass):
    """Every root whose sum and squares nothing else reads."""

    name: ClassVar[str] = "recognize-lengths"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        leading = leading_to_weights(model.graph)

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            return node.outputs[0] in leading and _try_replace(graph, node)

        return rewrite(model, {"Sqrt"}, attempt)


def _try_replace(graph: ir.Graph, root: ir.Node) -> bool:
    total = _before(root.inputs[0], root)
    while total is not None and total.op_type in MOVES and len(total.outputs) == 1:
        total = _before(total.inputs[0], total)
    if total is None:
        return False
    if total.op_type == "ReduceSum":
        x = _squared(total.inputs[0], total)
        if x is None:
            return False
        length = ir.node("ReduceL2", [x, *total.inputs[1:]], total.attributes.copy(), name=root.name)
        if op_of(length).refusal(length) is not None:
            return False
        _put(graph, root, total, [length])
        return True
    parts = [_squared(value, total) for value in total.inputs] if total.op_type == "Add" else []
    shapes = [static_shape(part) for part in parts if part is not None]
    if len(shapes) != 2 or None in shapes or shapes[0] != shapes[1]:
        return False
    shape = shapes[0]
    assert shape is not None
    if len(shape) < 2 or shape[1] is None or sum(size is None for size in shape[2:]) > 1:
        return False
    base = str(root.name or root.outputs[0].name)
    first, second = parts
    x, new = _whole(first, second), list[ir.Node]()
    if x is None:
        new.append(ir.node("Concat", parts, {"axis": 1}, name=f"{base}_parts"))
        x = new[-1].outputs[0]
        name_value(x, f"{base}_both", _FLOAT, ir.Shape([None, 2 * shape[1], *shape[2:]]))
    sizes = np.array([0, 2, *(-1 if size is None else size for size in shape[1:])])
    new.append(ir.node("Reshape", [x, initializer(graph, f"{base}_sizes", sizes)], name=f"{base}_pairs"))
    name_value(new[-1].outputs[0], f"{base}_paired", _FLOAT, ir.Shape([shape[0], 2, *shape[1:]]))
    axis = initializer(graph, f"{base}_axis", np.array([1]))
    new.append(ir.node("ReduceL2", [new[-1].outputs[0], axis], {"keepdims": 0}, name=root.name))
    _put(graph, root, total, new)
    return True


def _before(value: ir.Value | None, reader: ir.Node) -> ir.Node | None:
    """The node that gives a value for this reader alone."""
    node = None if value is None or only_reader(value) is not reader else value.producer()
    return node if node is not None and node.domain == "" else None


def _squared(value: ir.Value | None, reader: ir.Node) -> ir.Value | None:
    """What a value is the square of, which this reader alone reads; None of another."""
    node = _before(value, reader)
    exponent = constant_input(node, 1) if node is not None and node.op_type == "Pow" else None
    if node is None or exponent is None or exponent.size != 1 or float(exponent.reshape(-1)[0]) != 2:
        return None
    x = node.inputs[0]
    return None if x is None or constant_array(x) is not None or x.dtype is not ir.DataType.FLOAT else x


def _whole(first: ir.Value | None, second: ir.Value | None) -> ir.Value | None:
    """The tensor of which two are the halves along axis 1; None of others."""
    cuts = [None if value is None else value.producer() for value in (first, second)]
    whole, found = None, []
    for cut in cuts:
        if cut is None or cut.op_type != "Slice" or (whole is not None and cut.inputs[0] is not whole):
            return None
        whole = cut.inputs[0]
        numbers = [constant_input(cut, index) for index in range(1, len(cut.inputs))]
        if len(numbers) < 3 or any(array is None or array.size != 1 for array in numbers):
            return None
        found.append([int(array.reshape(-1)[0]) for array in numbers if array is not None])
    channels = static_shape(whole)
    if channels is None or len(channels) < 2 or channels[1] is None:
        return None
    C = channels[1]
    for number, (start, end, axis, *step) in enumerate(found):
        begin, stop, _ = slice(start, end).indices(C)
        if (
            axis % len(channels) != 1
            or step not in ([], [1])
            or (begin, stop) != (number * C // 2, (number + 1) * C // 2)
        ):
            return None
    return whole if C % 2 == 0 else None


def _put(graph: ir.Graph, root: ir.Node, total: ir.Node, new: list[ir.Node]) -> None:
    """New nodes in the place of a sum, and none in that of its root."""
    if total is root.inputs[0].producer():  # type: ignore[union-attr]
        ir.convenience.replace_nodes_and_values(graph, root, [root], new, root.outputs, new[-1].outputs)
        return
    ir.convenience.replace_nodes_and_values(graph, total, [total], new, total.outputs, new[-1].outputs)
    bypass(root, root.inputs[0])  # type: ignore[arg-type]
