"""Ask integers and truth values themselves, where a graph asks floats that it made of them.

    Equal(Cast<float>(b), 0)                =  Not(b)                      b of truth values
    Cast<bool>(1 - Cast<float>(m))          =  Not(Equal(m, 1))            m of integers
    Greater(Cast<float>(n) / 2, 3)          =  Greater(n, 6)

for every integer: each step between is monotone, so what is asked of the float holds from one integer on, up to one, or
between two. PyTorch's masks are often made, cast, moved and asked again, and integers alone have codes that are looked
up (`qpipe.ops.lookup`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import bypass, insert_named, rewrite
from qpipe.nodes import AnyArray, initializer, int_attribute
from qpipe.ops.condition import COMPARISONS
from qpipe.ops.constant_operand import constant_of
from qpipe.ops.lookup import Lookup, lookup_of
from qpipe.ops.masks import MOVES

_BOOL, _WIDE = ir.TensorType(ir.DataType.BOOL), ir.TensorType(ir.DataType.INT64)


@dataclass(frozen=True)
class _Question:
    """asks: what is asked of each of the numbers in `value`. number: what they are compared with."""

    value: ir.Value
    asks: Callable[[AnyArray], AnyArray]
    number: AnyArray


@dataclass(frozen=True, kw_only=True)
class AskIntegers(ir.passes.InPlacePass):
    """Every comparison with one number, and Cast to truth values, of what is made of integers number by number."""

    name: ClassVar[str] = "ask-integers"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change every match whose answer is not always the same; what made the floats is left to dead code."""
        return rewrite(model, {"Cast", *COMPARISONS}, _try_ask)


def _try_ask(graph: ir.Graph, node: ir.Node) -> bool:
    question = _question(node)
    lookup = None if question is None else lookup_of(question.value)
    found = None if question is None or lookup is None else _Answer(graph, node, question, lookup).write()
    if found is None:
        return False
    output = node.outputs[0]
    if output.is_graph_output() and (found.producer() is None or found.is_graph_output()):
        found = insert_named(node, ir.node("Identity", [found], name=f"{output.name}_asked"), _BOOL, output.shape)
    bypass(node, found)
    return True


def _question(node: ir.Node) -> _Question | None:
    if node.op_type == "Cast":
        value = node.inputs[0]
        is_truth = int_attribute(node, "to", 0) == ir.DataType.BOOL
        if value is None or value.dtype is not ir.DataType.FLOAT or not is_truth:
            return None
        return _Question(value, lambda x: x != 0, np.array(0, np.float32))
    compare = COMPARISONS[node.op_type]
    for index, value in enumerate(node.inputs):
        constant = constant_of(node.inputs[1 - index])
        if value is None or constant is None or constant.size != 1 or constant.dtype != np.float32:
            continue
        number = constant.reshape(())
        if constant.ndim <= len(value.shape or ()) and not np.isnan(number):
            return _Question(value, _beside(compare, number, is_first=index == 0), number)
    return None


def _beside(compare: Callable[[Any, Any], Any], number: AnyArray, *, is_first: bool) -> Callable[[AnyArray], AnyArray]:
    """What is compared with the number, before it or behind it."""
    return (lambda x: compare(x, number)) if is_first else (lambda x: compare(number, x))


class _Answer:
    """Nodes that take the place of one."""

    def __init__(self, graph: ir.Graph, node: ir.Node, question: _Question, lookup: Lookup) -> None:
        self._graph, self._node, self._question, self._lookup = graph, node, question, lookup
        self._base, self._count = node.name or str(node.outputs[0].name), 0

    def write(self) -> ir.Value | None:
        """Truth values where the floats stood; None where rows of a table are asked, or the answer is always one."""
        root = self._lookup.root
        source = root.inputs[0]
        if source is None or source.dtype is None:
            return None
        if root.op_type == "Where":
            numbers = [constant_of(value) for value in root.inputs[1:]]
            if any(number is None or number.size != 1 for number in numbers):
                return None
            found = self._truth(source, *(self._holds(number.reshape(())) for number in numbers if number is not None))
        elif root.op_type != "Cast":
            return None
        elif source.dtype is ir.DataType.BOOL:
            found = self._truth(source, *(self._holds(np.array(number)) for number in (1, 0)))
        else:
            found = self._range(source)
        for move in self._lookup.chain if found is not None else ():
            if move.op_type in MOVES:
                found = self._add(move.op_type, [found, *move.inputs[1:]], _BOOL, move.outputs[0].shape, move)
        return found

    def _holds(self, number: AnyArray) -> bool:
        """What is answered of a number that the root gives."""
        with np.errstate(over="ignore"):
            return bool(self._question.asks(self._lookup.numbers(number)))

    def _truth(self, source: ir.Value, where_true: bool, where_false: bool) -> ir.Value | None:
        if where_true == where_false:
            return None
        return source if where_true else self._add("Not", [source], _BOOL, source.shape)

    def _range(self, source: ir.Value) -> ir.Value | None:
        """Of integers: from one on, up to one, or between two, or all but these."""
        assert source.dtype is not None
        kind = source.dtype.numpy()
        limits = np.iinfo(kind)
        first, end = self._turns(int(limits.min), int(limits.max), lambda n: np.array(n, kind))
        if first is None:
            return None
        holds = self._holds(np.array(first, kind))
        if source.dtype not in (ir.DataType.INT32, ir.DataType.INT64):
            source = self._add("Cast", [source], _WIDE, source.shape, to=int(ir.DataType.INT64))
            kind = np.dtype(np.int64)

        def compared(op_type: str, number: int) -> ir.Value:
            constant = initializer(self._graph, f"{self._base}_{self._count}_number", np.array(number, kind))
            return self._add(op_type, [source, constant], _BOOL, source.shape)

        if end is None:
            return compared("GreaterOrEqual" if holds else "Less", first)
        if end - first == 1:
            found = compared("Equal", first)
        else:
            found = self._add("And", [compared("GreaterOrEqual", first), compared("Less", end)], _BOOL, source.shape)
        return found if holds else self._add("Not", [found], _BOOL, source.shape)

    def _turns(self, low: int, high: int, integer: Callable[[int], AnyArray]) -> tuple[int | None, int | None]:
        """The first integer that is answered otherwise than those before it, and the next such; None where none is."""

        def holds(n: int) -> bool:
            return self._holds(integer(n))

        def reaches(n: int) -> bool:
            with np.errstate(over="ignore"):
                return bool(self._lookup.numbers(integer(n)) >= self._question.number)

        if holds(low) != holds(high):
            return _turn(low, high, holds), None
        if reaches(low) == reaches(high):
            return None, None
        # Of what rises the first that reaches the number may be equal to it, of what falls the last.
        turn = _turn(low, high, reaches)
        inner = next((n for n in (turn, turn - 1) if holds(n) != holds(low)), None)
        return (None, None) if inner is None else (_turn(low, inner, holds), _turn(inner, high, holds))

    def _add(
        self,
        op_type: str,
        inputs: list[ir.Value | None],
        dtype: ir.TypeProtocol,
        shape: ir.Shape | None,
        like: ir.Node | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """Before the node that goes; with the attributes of another."""
        node = ir.node(op_type, inputs, attributes, name=f"{self._base}_{self._count}_{op_type}")
        self._count += 1
        if like is not None:
            node.attributes.update(like.attributes)
        return insert_named(self._node, node, dtype, shape)


def _turn(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The first integer above `low` that is answered as `high` is, of what changes once between them."""
    before = holds(low)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) == before else (low, middle)
    return high
