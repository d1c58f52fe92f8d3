"""What a Where asks: comparisons of numbers, numbers that say a truth value, and And, Or, Xor and Not of these.

Nothing of it is rounded. Numbers on grids are in the order of their integers in one unit, and a constant c lies between
two integers of a grid:

    q 2**l > c  =  q > floor(c 2**-l)        q 2**l < c  =  q < ceil(c 2**-l)        q 2**l = c  =  q = c 2**-l

So integers say what float32 does of the numbers that they stand for, which it holds exactly: always.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray, IntArray
from qpipe.arith.spec import QuantSpec
from qpipe.arith.symbolic import BOOL, INT32, Emitter, Symbol
from qpipe.nodes import STANDARD_DOMAINS, constant_array, int_attribute

T = TypeVar("T")

COMPARISONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "Less": operator.lt, "LessOrEqual": operator.le, "Greater": operator.gt, "GreaterOrEqual": operator.ge,
    "Equal": operator.eq,
}  # fmt: skip
LOGIC: Final[Mapping[str, Callable[..., Any]]] = {
    "And": operator.and_, "Or": operator.or_, "Xor": operator.xor, "Not": operator.invert,
}  # fmt: skip
_MIRRORED: Final = {"Less": "Greater", "Greater": "Less", "LessOrEqual": "GreaterOrEqual",
                    "GreaterOrEqual": "LessOrEqual"}  # fmt: skip
_UP: Final = frozenset({"Less", "GreaterOrEqual"})
_MOST_NODES: Final = 32
_BEYOND: Final = 2**20
"""Larger than any code."""

Number = tuple[Symbol, QuantSpec]
"""Codes, zero point and all, and their grid."""


@dataclass(frozen=True)
class Condition:
    """root: truth values. nodes: those that compute them. numbers: float values that these read."""

    root: ir.Value
    nodes: tuple[ir.Node, ...]
    numbers: tuple[ir.Value, ...]

    @property
    def compares_two(self) -> bool:
        """Whether two numbers that are computed are compared."""
        return any(_is_of_two(node) for node in self.nodes)

    @property
    def constants(self) -> list[AnyArray]:
        """What its nodes compare with and combine, or what it is itself."""
        values = [self.root, *(value for node in self.nodes for value in node.inputs)]
        return [array for value in values if (array := constant_array(value)) is not None]

    def stays_by_a_factor(self, values: Collection[ir.Value]) -> bool:
        """Whether one positive factor on all of these values, and on no other, leaves it as it is."""
        for node in self.nodes:
            rest = [value for value in node.inputs if value not in values]
            if node.op_type not in COMPARISONS or len(rest) == len(node.inputs):
                continue
            arrays = [constant_array(value) for value in rest]
            if any(array is None or array.any() for array in arrays):
                return False
        return True

    def is_only_of(self, where: ir.Node) -> bool:
        """Whether nothing but this node reads what its nodes give."""
        readers, given = {where, *self.nodes}, [node.outputs[0] for node in self.nodes]
        return all(set(value.consumers()) <= readers and not value.is_graph_output() for value in given)

    def holds(self, number: Callable[[ir.Value], T], constant: Callable[[AnyArray], T]) -> T:
        """Its truth values, in an array library; number: real numbers of a value. constant: of an array."""

        def found(value: ir.Value | None) -> Any:
            assert value is not None
            if (array := constant_array(value)) is not None:
                return constant(array)
            node = value.producer()
            if value in self.numbers or node is None:
                return number(value)
            operands = [found(each) for each in node.inputs]
            if node.op_type in LOGIC:
                return LOGIC[node.op_type](*operands)
            return COMPARISONS[node.op_type](*operands) if node.op_type in COMPARISONS else operands[0] != 0

        result: T = found(self.root)
        return result

    def write(
        self, emitter: Emitter, number: Callable[[ir.Value], Number], arrange: Callable[[AnyArray], AnyArray]
    ) -> ir.Value:
        """Its truth values as nodes on integers. number: of a value. arrange: a constant for the operands' layout."""

        def found(value: ir.Value | None) -> ir.Value:
            assert value is not None
            if (array := constant_array(value)) is not None:
                return emitter.operand(arrange(array), ())
            node = value.producer()
            assert node is not None
            if node.op_type in LOGIC:
                return emitter.node(node.op_type, [found(each) for each in node.inputs], BOOL)
            arrays = [constant_array(each) for each in node.inputs]
            numbers = [number(v) for v, a in zip(node.inputs, arrays, strict=True) if a is None and v is not None]
            if node.op_type not in COMPARISONS:
                return _write_truth(emitter, *numbers[0])
            if len(numbers) == 2:
                return _write_pair(emitter, node.op_type, *numbers)
            op_type = node.op_type if arrays[0] is None else _MIRRORED.get(node.op_type, node.op_type)
            (codes, grid), (bound,) = numbers[0], (array for array in arrays if array is not None)
            codes, limits = codes.astype(INT32), arrange(threshold(op_type, bound, grid).astype(np.int32))
            return emitter.node(op_type, [codes.handle, emitter.operand(limits, codes.sizes)], BOOL)

        return found(self.root)


def condition_of(value: ir.Value | None) -> Condition | None:
    """What gives these truth values, of float numbers and constants alone; None where anything else takes part."""
    nodes: dict[ir.Node, None] = {}
    numbers: dict[ir.Value, None] = {}
    stack = [value]
    while stack:
        current = stack.pop()
        if current is None:
            return None
        if (array := constant_array(current)) is not None:
            if array.dtype != np.bool_:
                return None
            continue
        node = current.producer()
        if node is None or node.domain not in STANDARD_DOMAINS or len(nodes) > _MOST_NODES:
            return None
        nodes[node] = None
        if node.op_type in LOGIC:
            stack += node.inputs[::-1]
        elif asks_numbers(node):
            numbers.update(dict.fromkeys(v for v in node.inputs if v is not None and constant_array(v) is None))
        else:
            return None
    assert value is not None
    return Condition(value, tuple(nodes), tuple(numbers))


def asks_numbers(node: ir.Node) -> bool:
    """Whether it compares floats, at least one of them computed, or says whether a float is another than 0."""
    arrays = [constant_array(value) for value in node.inputs]
    of_floats = all(value is not None and value.dtype in {ir.DataType.FLOAT, None} for value in node.inputs)
    if node.domain not in STANDARD_DOMAINS or not of_floats or all(array is not None for array in arrays):
        return False
    if any(array is not None and np.isnan(array).any() for array in arrays):
        return False
    is_cast = node.op_type == "Cast" and int_attribute(node, "to", 0) == ir.DataType.BOOL
    return is_cast or (node.op_type in COMPARISONS and len(arrays) == 2)


def is_truth(value: ir.Value) -> bool:
    """Whether it is 1 where a truth value holds, else 0."""
    node = value.producer()
    if node is None or node.op_type != "Cast" or value.dtype is not ir.DataType.FLOAT:
        return False
    return node.inputs[0] is not None and node.inputs[0].dtype is ir.DataType.BOOL


def threshold(op_type: str, bound: AnyArray, grid: QuantSpec) -> IntArray:
    """What codes of a grid, zero point and all, are compared with in the place of real numbers."""
    steps = np.ldexp(bound.astype(np.float64), -grid.exponent)
    whole = np.ceil(steps) if op_type in _UP else np.floor(steps)
    if op_type == "Equal":
        whole = np.where(whole == steps, whole, _BEYOND)
    return np.asarray(np.clip(whole, -_BEYOND, _BEYOND) + grid.zero_point, np.int64)


def _is_of_two(node: ir.Node) -> bool:
    return node.op_type in COMPARISONS and all(constant_array(value) is None for value in node.inputs)


def _write_truth(emitter: Emitter, codes: Symbol, grid: QuantSpec) -> ir.Value:
    """Whether a code is another than that of 0."""
    if grid.zero_point == 0:
        return emitter.cast(codes.handle, BOOL)
    zero = emitter.operand(np.array(grid.zero_point, np.int32), ())
    return emitter.node("Not", [emitter.node("Equal", [codes.astype(INT32).handle, zero], BOOL)], BOOL)


def _write_pair(emitter: Emitter, op_type: str, *numbers: Number) -> ir.Value:
    """Both in the finer one's steps; where the coarser one's are beyond all that the finer one has, in no coarser."""
    unit = min(grid.exponent for _, grid in numbers)
    most = max(grid.largest.bit_length() for _, grid in numbers if grid.exponent == unit)
    same = [(codes.astype(INT32) - grid.zero_point) * (1 << min(grid.exponent - unit, most)) for codes, grid in numbers]
    return emitter.node(op_type, [each.handle for each in same], BOOL)
