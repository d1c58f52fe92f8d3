"""Let what a Where asks be numbers, where integers can say them, and let no two ask through the same nodes.

    Where(m, x, y), m of integers and truth values alone  =  Where(Cast<bool>(Cast<float>(m)), x, y)
    Cast<float>(Less(a, b))                                =  Where(Less(a, b), 1, 0)

A mask becomes numbers that are looked up, 0 and 1, as what it is multiplied with would be: it has codes then, and so
has all that a Where reads (`qpipe.ops.condition`). It gets the axes that it lacks. Each Where has comparisons, And, Or
and Not of its own, which are a part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import insert_named, rewrite
from qpipe.nodes import constant_array, initializer, int_attribute, name_value, rank, reads
from qpipe.ops import has_weights
from qpipe.ops.condition import LOGIC, asks_numbers, condition_of
from qpipe.ops.lookup import Origins

_FLOAT, _BOOL = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(ir.DataType.BOOL)


@dataclass(frozen=True, kw_only=True)
class ConditionsToNumbers(ir.passes.InPlacePass):
    """Every Where of floats before weights, and every Cast of comparisons to float, whose condition can be numbers."""

    name: ClassVar[str] = "conditions-to-numbers"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change every match."""
        origins, leading = Origins(), _leading_to_weights(model.graph)

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            if node.outputs[0] not in leading:
                return False
            return (_try_choose if node.op_type == "Cast" else _try_change)(graph, node, origins)

        # What a Cast becomes is the first to ask through its nodes.
        casts = rewrite(model, {"Cast"}, attempt)
        leading = _leading_to_weights(model.graph)
        wheres = rewrite(model, {"Where"}, attempt)
        return ir.passes.PassResult(model, casts.modified or wheres.modified)


def _leading_to_weights(graph: ir.Graph) -> set[ir.Value]:
    """All that layers of weights are made of."""
    leading: set[ir.Value] = set()
    for node in reversed(graph):
        if has_weights(node) or any(value in leading for value in node.outputs):
            leading.update(reads(node))
    return leading


def _try_choose(graph: ir.Graph, cast: ir.Node, origins: Origins) -> bool:
    """Write a Cast of comparisons as a choice of 1 and 0."""
    truth = cast.inputs[0]
    if int_attribute(cast, "to", 0) != ir.DataType.FLOAT or truth is None or truth.dtype is not ir.DataType.BOOL:
        return False
    if constant_array(truth) is not None or origins.is_integer(truth) or not _can_be_asked(truth, origins):
        return False
    base = str(cast.outputs[0].name)
    both = [initializer(graph, f"{base}_{number:g}", number) for number in (np.float32(1), np.float32(0))]
    where = ir.node("Where", [truth, *both], name=cast.name)
    name_value(where.outputs[0], f"{base}_chosen", _FLOAT, cast.outputs[0].shape)
    ir.convenience.replace_nodes_and_values(graph, cast, [cast], [where], cast.outputs, where.outputs)
    return True


def _try_change(graph: ir.Graph, where: ir.Node, origins: Origins) -> bool:
    condition, result = where.inputs[0], where.outputs[0]
    if condition is None or result.dtype is not ir.DataType.FLOAT or origins.is_root(where):
        return False
    known = condition_of(condition)
    is_its_own = known is not None and known.is_only_of(where)
    if is_its_own or constant_array(condition) is not None or not _can_be_asked(condition, origins):
        return False
    own = _Copy(graph, where, origins)
    where.replace_input_with(0, own.of(condition))
    return True


def _can_be_asked(value: ir.Value | None, origins: Origins) -> bool:
    """Whether it is made of comparisons of floats, of integers and of truth values."""
    stack, seen = [value], set[ir.Value]()
    while stack:
        current = stack.pop()
        if current is None:
            return False
        if current in seen or origins.is_integer(current):
            continue
        seen.add(current)
        node = current.producer()
        if node is None or node.domain != "":
            return False
        if node.op_type in LOGIC:
            stack += node.inputs
        elif not asks_numbers(node):
            return False
    return True


class _Copy:
    """Nodes before one Where."""

    def __init__(self, graph: ir.Graph, where: ir.Node, origins: Origins) -> None:
        self._graph, self._where, self._origins = graph, where, origins
        self._base, self._known = f"{where.name or where.outputs[0].name}_condition", dict[ir.Value, ir.Value]()

    def of(self, value: ir.Value) -> ir.Value:
        """Such truth values, that no other Where asks."""
        if constant_array(value) is not None:
            return value
        if value not in self._known:
            node = value.producer()
            if self._origins.is_integer(value):
                self._known[value] = self._as_numbers(value)
            else:
                assert node is not None
                is_asked = node.op_type in LOGIC
                inputs = [self.of(each) if is_asked and each is not None else each for each in node.inputs]
                self._known[value] = self._add(node.op_type, inputs, _BOOL, value.shape, **_attributes(node))
        return self._known[value]

    def _as_numbers(self, value: ir.Value) -> ir.Value:
        dims, own = rank(self._where.outputs[0]), rank(value)
        if dims and own is not None and own < dims:
            axes = initializer(self._graph, f"{self._base}_axes", np.arange(dims - own))
            shape = None if value.shape is None else ir.Shape([*[1] * (dims - own), *value.shape.dims])
            value = self._add("Unsqueeze", [value, axes], _BOOL, shape)
        number = self._add("Cast", [value], _FLOAT, value.shape, to=ir.DataType.FLOAT)
        return self._add("Cast", [number], _BOOL, value.shape, to=ir.DataType.BOOL)

    def _add(
        self,
        op_type: str,
        inputs: list[ir.Value | None],
        dtype: ir.TypeProtocol,
        shape: ir.Shape | None,
        **attributes: int,
    ) -> ir.Value:
        name = f"{self._base}_{op_type}{len(self._known)}"
        node = ir.node(op_type, inputs, attributes, name=f"{name}_{dtype.dtype.name.lower()}")
        return insert_named(self._where, node, dtype, shape)


def _attributes(node: ir.Node) -> dict[str, int]:
    return {"to": int_attribute(node, "to", 0)} if "to" in node.attributes else {}
