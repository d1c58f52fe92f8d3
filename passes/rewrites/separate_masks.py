"""Add a bias of attention and the mask within it one after the other.

    Softmax(x + b), b of numbers and -2^15  =  Softmax((x + b') + m)        b': 0 where b is -2^15; m: 0 elsewhere

to the bit. On one grid that reaches down to the mask the biases would have no level to themselves. A table of learned
biases has a row of -inf for what is only filled up (Graphormer's distances), and a constant bias has a causal mask in
it (ALiBi).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import AnyArray, constant_array, initializer, name_value
from qpipe.ops.masks import MOVES, leads_to_softmax

_MASK: Final = -(2.0**14)
"""What is lower is half of what `finite_masks` leaves, or less: no bias."""


@dataclass(frozen=True, kw_only=True)
class SeparateMasks(ir.passes.InPlacePass):
    """Every Add, before a Softmax, of rows of such a table, which may have been moved."""

    name: ClassVar[str] = "separate-masks"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change every match; what several read of a table is looked up once for all."""
        parts: dict[ir.Value, list[ir.Value]] = {}
        return rewrite(model, {"Add"}, lambda graph, add: _try_separate(graph, add, parts))


def _try_separate(graph: ir.Graph, add: ir.Node, parts: dict[ir.Value, list[ir.Value]]) -> bool:
    for value, scores in (add.inputs, add.inputs[::-1]):
        if value is None or scores is None or not leads_to_softmax(add.outputs[0]):
            continue
        if value not in parts:
            path = _path(value)
            table = path[-1].inputs[0] if path else None
            array = constant_array(table)
            if array is None or not _is_mixed(array):
                continue
            parts[value] = [_looked_up(graph, value, path, array, which) for which in ("bias", "mask")]
        bias, mask = parts[value]
        result, base = add.outputs[0], str(add.outputs[0].name)
        first = ir.node("Add", [scores, bias], name=f"{add.name or base}_bias")
        name_value(first.outputs[0], f"{base}_biased", ir.TensorType(ir.DataType.FLOAT), result.shape)
        graph.insert_before(add, first)
        add.replace_input_with(0, first.outputs[0])
        add.replace_input_with(1, mask)
        return True
    return False


def _path(value: ir.Value) -> list[ir.Node]:
    """From a value back to the Gather whose rows are moved to it; empty where there is none."""
    path: list[ir.Node] = []
    node = value.producer()
    while node is not None and node.domain == "":
        path.append(node)
        if node.op_type == "Gather":
            return path
        node = node.inputs[0].producer() if node.op_type in MOVES and node.inputs[0] is not None else None
    return []


def _is_mixed(array: AnyArray) -> bool:
    """Whether there are numbers of a mask, and others than 0."""
    masked = array <= _MASK
    return array.dtype == np.float32 and bool(masked.any()) and bool((array[~masked] != 0).any())


def _looked_up(graph: ir.Graph, value: ir.Value, path: list[ir.Node], array: AnyArray, which: str) -> ir.Value:
    """The same rows of a part of the table, moved alike; behind what gives the rows of all of it."""
    masked = array <= _MASK
    part = np.where(masked, np.float32(0), array) if which == "bias" else np.where(masked, array, np.float32(0))
    base = str(value.name)
    operand = initializer(graph, f"{base}_{which}_table", part.astype(np.float32))
    place = path[0]
    for node in path[::-1]:
        old = node.outputs[0]
        name = f"{old.name}_{which}"
        new = ir.node(node.op_type, [operand, *node.inputs[1:]], node.attributes.copy(), name=name)
        name_value(new.outputs[0], name, ir.TensorType(ir.DataType.FLOAT), old.shape)
        graph.insert_after(place, new)
        place, operand = new, new.outputs[0]
    return operand
