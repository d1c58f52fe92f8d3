"""What integers alone say of a float tensor: the rows of a table by tokens, and the numbers of a mask or of a count.

    QuantizeLinear(Gather(table, tokens))  =  Gather(QuantizeLinear(table), tokens)        code by code, always

A quantizer rounds each number by itself, so that what it makes of a table's rows, of a mask's two numbers or of an
integer can be known before: the codes are looked up, and no float is computed. So an embedding has an integer form
without one of its own, and so has an attention mask such as `(1 - mask) * -10000`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray
from qpipe.errors import LoweringError
from qpipe.nodes import STANDARD_DOMAINS, constant_array, describe, inner_graphs, int_attribute
from qpipe.ops.constant_operand import constant_of, real_constant
from qpipe.ops.masks import MOVES

Codes = Callable[[AnyArray], AnyArray]
"""The codes, uint8, of float32 numbers, each by itself."""

_TABLE, _NUMBER, _CHOICE = "Gather", "Cast", "Where"
# Each is monotone in its operand, and exact to the last bit in any library.
_STEPS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide,
}  # fmt: skip
_INTEGERS: Final = frozenset(
    ir.DataType[name] for name in ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32")
)
"""Those that an int64 holds."""
_LONGEST: Final = 2**20
"""Entries of the table of an integer's codes: beyond, numbers that differ so little are no count."""


class Writer(Protocol):
    """What of a lowering's builder writes a look-up."""

    def emit(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        dtype: ir.DataType = ir.DataType.UINT8,
    ) -> ir.Value:
        """Add a node of the standard domain; its one output has this type."""

    def emit_copy(self, node: ir.Node, inputs: Sequence[ir.Value]) -> ir.Value:
        """The node itself on other data, uint8."""

    def constant(self, name: str, array: Any) -> ir.Value:
        """An initializer of its own."""


@dataclass(frozen=True)
class Lookup:
    """root: the node that makes floats of integers; chain: what changes each of them by a constant, or moves it."""

    root: ir.Node
    chain: tuple[ir.Node, ...]

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """All of it."""
        return (self.root, *self.chain)

    @property
    def table(self) -> ir.Value | None:
        """The constant whose rows are taken; None where there is none."""
        return self.root.inputs[0] if self.root.op_type == _TABLE else None

    @property
    def lowest(self) -> float:
        """The least that it can give; of integers that are cast, as if they were truth values."""
        operands = {_TABLE: self.root.inputs[:1], _CHOICE: self.root.inputs[1:], _NUMBER: []}[self.root.op_type]
        known = [_real(value).reshape(-1) for value in operands] or [np.array([0, 1])]
        return float(self.numbers(np.concatenate(known)).min())

    def take_out_steps(self) -> None:
        """Let the chain only move numbers: the root gives what they become, under the names of that."""
        for node in self.chain:
            if (operand := _changed(node)) is not None:
                changed = node.outputs[0]
                changed.replace_all_uses_with(operand)
                changed.name, operand.name = operand.name, changed.name

    def numbers(self, x: AnyArray) -> AnyArray:
        """What the chain makes of numbers that the root gives, float32, where they stand."""
        x = x.astype(np.float32)
        for node in self.chain:
            if node.op_type in _STEPS:
                number = _number(node)
                assert number is not None
                is_first = constant_of(node.inputs[0]) is not None
                x = _STEPS[node.op_type](*((number, x) if is_first else (x, number)))
        return x

    def write(self, codes: Codes, b: Writer, name: str) -> ir.Value:
        """The codes of what it gives, on integers alone; LoweringError where a table of them would be too long."""

        def found(x: AnyArray) -> AnyArray:
            with np.errstate(over="ignore"):
                return codes(self.numbers(x))

        value = _WRITE[self.root.op_type](self.root, found, b, name)
        for node in self.chain:
            if node.op_type in MOVES:
                value = b.emit_copy(node, [value])
        return value


def lookup_of(value: ir.Value) -> Lookup | None:
    """The look-up that gives a float value; None where something else takes part."""
    origins, chain = Origins(), list[ir.Node]()
    if not origins.are_looked_up(value):
        return None
    while (node := value.producer()) is not None and not origins.is_root(node):
        operand = origins.operand(node)
        assert operand is not None
        chain.append(node)
        value = operand
    assert node is not None
    return Lookup(node, tuple(chain[::-1]))


class Origins:
    """Which of a graph's values are integers of integers alone, and which are looked up. Each is followed once."""

    def __init__(self) -> None:
        self._integer: dict[ir.Value, bool] = {}
        self._looked_up: dict[ir.Value, bool] = {}

    def is_integer(self, value: ir.Value) -> bool:
        """Whether a value, and all that it is computed from, are integers, Booleans and constants."""
        known, stack = self._integer, [value]
        while stack:
            current = stack[-1]
            if current not in known:
                read = _integers_read(current)
                if read is not None and (unknown := [each for each in read if each not in known]):
                    stack += unknown
                    continue
                known[current] = read is not None and all(known[each] for each in read)
            stack.pop()
        return known[value]

    def are_looked_up(self, value: ir.Value) -> bool:
        """Whether a float value's numbers are looked up by integers, and changed or moved since."""
        known, chain = self._looked_up, list[ir.Value]()
        while value not in known:
            node = value.producer()
            if node is None or node.domain not in STANDARD_DOMAINS:
                known[value] = False
            elif self.is_root(node):
                known[value] = True
            elif (operand := self.operand(node)) is None:
                known[value] = False
            else:
                chain.append(value)
                value = operand
        known |= dict.fromkeys(chain, known[value])
        return known[value]

    def is_root(self, node: ir.Node) -> bool:
        """Whether it makes float32 of integers and of nothing else."""
        if len(node.outputs) != 1 or node.outputs[0].dtype is not ir.DataType.FLOAT:
            return False
        if node.op_type == _TABLE:
            return constant_of(node.inputs[0]) is not None and self._is_computed(node.inputs[1])
        if node.op_type == _CHOICE:
            is_choice = all(constant_of(value) is not None for value in node.inputs[1:])
            return is_choice and self._is_computed(node.inputs[0])
        return node.op_type == _NUMBER and self._is_computed(node.inputs[0])

    def operand(self, node: ir.Node) -> ir.Value | None:
        """What a link of a chain works on; None of any other node."""
        if node.op_type in MOVES:
            rest = all(value is None or self.is_integer(value) for value in node.inputs[1:])
            return node.inputs[0] if rest and len(node.outputs) == 1 else None
        return _changed(node)

    def _is_computed(self, value: ir.Value | None) -> bool:
        return value is not None and constant_array(value) is None and self.is_integer(value)


def _integers_read(value: ir.Value) -> list[ir.Value] | None:
    """What an integer is computed from, nothing of a constant or an input; None of what is none."""
    node = value.producer()
    if constant_array(value) is not None or _is_integer_input(value):
        return []
    if value.dtype not in _INTEGERS or (node is None and not value.is_graph_input()):
        return None
    if node is None:
        return []
    return None if inner_graphs(node) else [each for each in node.inputs if each is not None]


def _is_integer_input(value: ir.Value) -> bool:
    """Whether it is an input of the network that is float and made an integer at once, as Keras feeds tokens."""
    node = value.producer()
    if node is None or node.op_type != "Cast" or value.dtype not in _INTEGERS - {ir.DataType.BOOL}:
        return False
    return node.inputs[0] is not None and node.inputs[0].is_graph_input() and node.inputs[0].const_value is None


def _changed(node: ir.Node) -> ir.Value | None:
    """What a step changes by a number; None of any other node."""
    if node.op_type not in _STEPS or _number(node) is None:
        return None
    return next((value for value in node.inputs if constant_of(value) is None), None)


def _number(node: ir.Node) -> AnyArray | None:
    """The one finite number, float32, that a node combines its operand with; None where there is no such."""
    constants = [array for value in node.inputs if (array := constant_of(value)) is not None]
    if len(node.inputs) != 2 or len(constants) != 1 or constants[0].size != 1 or constants[0].dtype != np.float32:
        return None
    rank = max(len(value.shape or ()) for value in node.inputs if value is not None and constant_of(value) is None)
    number = constants[0].reshape(())
    # Of a quotient the operand is above: 1 / x is not monotone.
    if node.op_type == "Div" and (number == 0 or constant_of(node.inputs[0]) is not None):
        return None
    return number if constants[0].ndim <= rank and np.isfinite(number) else None


def _write_table(node: ir.Node, codes: Codes, b: Writer, name: str) -> ir.Value:
    table = b.constant(f"{name}_table", codes(_real(node.inputs[0])))
    attributes = {"axis": int_attribute(node, "axis", 0)}
    return b.emit("Gather", [table, node.inputs[1]], name=f"{name}_look_up", attributes=attributes)


def _write_choice(node: ir.Node, codes: Codes, b: Writer, name: str) -> ir.Value:
    both = [b.constant(f"{name}_choice{i}", codes(_real(node.inputs[i]))) for i in (1, 2)]
    return b.emit("Where", [node.inputs[0], *both], name=f"{name}_choose")


def _write_number(node: ir.Node, codes: Codes, b: Writer, name: str) -> ir.Value:
    """By a table from where the codes begin to change to where they end, since they only rise or only fall."""
    source = node.inputs[0]
    assert source is not None
    assert source.dtype is not None
    if source.dtype is ir.DataType.BOOL:
        both = [b.constant(f"{name}_choice{number}", codes(np.array(number))) for number in (1, 0)]
        return b.emit("Where", [source, *both], name=f"{name}_choose")
    first, last = _changing(np.iinfo(source.dtype.numpy()), codes)
    if last - first >= _LONGEST:
        raise LoweringError(f"{describe(node)}: {last - first + 1} integers have codes, expected {_LONGEST} at most")
    table = b.constant(f"{name}_table", codes(np.array([*range(first, last + 1)], source.dtype.numpy())))
    ends = [b.constant(f"{name}_{end}", np.int64(value)) for end, value in (("first", first), ("last", last))]
    wide = ir.DataType.INT64
    number = b.emit("Cast", [source], name=f"{name}_int64", attributes={"to": wide}, dtype=wide)
    # On some CPUs onnxruntime 1.31 takes an int64 from 2**31 to 2**32 for a negative one in Clip, Max and Min.
    for end, op_type in zip(ends, ("Less", "Greater"), strict=True):
        beyond = b.emit(op_type, [number, end], name=f"{name}_{op_type}", dtype=ir.DataType.BOOL)
        number = b.emit("Where", [beyond, end, number], name=f"{name}_not_{op_type}", dtype=wide)
    index = b.emit("Sub", [number, ends[0]], name=f"{name}_index", dtype=wide)
    return b.emit("Gather", [table, index], name=f"{name}_look_up")


def _changing(limits: np.iinfo[Any], codes: Codes) -> tuple[int, int]:
    """The last integer that has the first one's code, and the first that has the last one's, but no smaller."""
    low, high = int(limits.min), int(limits.max)

    def code(number: int) -> int:
        return int(codes(np.array(number, limits.dtype)))

    def turn(end: int, other: int) -> int:
        """The integer farthest from `end` with its code."""
        same, changed = end, other
        while abs(changed - same) > 1:
            middle = (same + changed) // 2
            same, changed = (middle, changed) if code(middle) == code(end) else (same, middle)
        return same

    if code(low) == code(high):
        return 0, 0
    return turn(low, high), turn(high, low)


def _real(value: ir.Value | None) -> AnyArray:
    assert value is not None
    return real_constant(value)


_WRITE: Final = {_TABLE: _write_table, _NUMBER: _write_number, _CHOICE: _write_choice}
