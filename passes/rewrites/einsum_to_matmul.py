"""Write an Einsum of two operands as the product that it is: MatMul, or Mul where nothing is summed.

    Einsum<"bihd,bjhd->bhij">(q, k)  =  MatMul(Transpose(q) [b, h, i, d], Transpose(k) [b, h, d, j])
    Einsum<"bnd,dhk->bnhk">(x, w)    =  Reshape(MatMul(x, Reshape(w) [d, h k]) [b, n, h k])
    Einsum<"bchw,bc->bchw">(x, g)    =  Mul(x, Reshape(g) [b, c, 1, 1])

Labels that both operands and the result have lead; those of one operand alone are its rows or columns, several as one.
An Einsum of one operand that sums nothing is a Transpose. Source: ONNX operator specification, Einsum-12.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_array, initializer, name_value, static_shape, string_attribute

Labels = Sequence[str]
Sizes = Mapping[str, int | None]
"""By label; None where it is open."""


@dataclass(frozen=True, kw_only=True)
class EinsumToMatMul(ir.passes.InPlacePass):
    """An Einsum of one or two operands whose labels stand once in each, and whose summed labels are in both."""

    name: ClassVar[str] = "einsum-to-matmul"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        return rewrite(model, frozenset({"Einsum"}), _try_replace)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    terms = _terms(string_attribute(node, "equation", ""))
    shapes = [static_shape(value) for value in node.inputs]
    values = [value for value in node.inputs if value is not None]
    if terms is None or len(terms) != len(shapes) + 1 or len(values) < len(shapes):
        return False
    sizes: dict[str, int | None] = {}
    for term, shape in zip(terms, shapes, strict=False):
        if shape is None or len(shape) != len(term) or (values[0].dtype not in {ir.DataType.FLOAT, None}):
            return False
        # A size of 1 would broadcast.
        if any(sizes.get(label, size) != size for label, size in zip(term, shape, strict=True)):
            return False
        sizes |= zip(term, shape, strict=True)
    writer = _Writer(graph, node, sizes)
    if len(values) == 1:
        done = sorted(terms[0]) == sorted(terms[1])
        if done:
            writer.transpose(values[0], terms[0], terms[1])
    else:
        pairs = list(zip(values, terms, strict=False))
        if constant_array(values[0]) is not None:
            # Weights stand on the right of a product.
            pairs.reverse()
        done = writer.product(*pairs[0], *pairs[1], terms[2])
    if not done:
        return False
    if not writer.new:
        writer.new.append(ir.node("Identity", [values[0]], name=writer.name))
    last = writer.new[-1].outputs[0]
    ir.convenience.replace_nodes_and_values(graph, node, [node], writer.new, node.outputs, [last])
    return True


def _terms(equation: str) -> list[str] | None:
    """Of each operand and of the result; None where a label repeats in one, or where some have no name."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    counts = Counter("".join(terms))
    if not arrow:
        result = "".join(sorted(label for label, count in counts.items() if count == 1))
    if any(len(set(term)) < len(term) for term in (*terms, result)) or "." in equation:
        return None
    return [*terms, result] if set(result) <= set(counts) else None


@dataclass
class _Writer:
    """Nodes in the place of one; what is constant is computed."""

    graph: ir.Graph
    node: ir.Node
    sizes: Sizes

    def __post_init__(self) -> None:
        self.name = self.node.name or str(self.node.outputs[0].name)
        self.new: list[ir.Node] = []

    def product(self, a: ir.Value, of_a: str, b: ir.Value, of_b: str, result: str) -> bool:
        """Of both operands; whether it is one."""
        batch = [label for label in result if label in of_a and label in of_b]
        summed = [label for label in of_a if label in of_b and label not in result]
        rows, columns = ([label for label in one if label not in other] for one, other in ((of_a, of_b), (of_b, of_a)))
        if not set(rows) | set(columns) <= set(result):
            return False
        if not summed:
            return self._outer((a, of_a), (b, of_b), result)
        heads = [[label] for label in batch]
        # Without a batch the rows need not be one axis: what is before the last two is broadcast.
        left = [*heads, *([rows] if batch else [[row] for row in rows]), summed]
        right = [*heads, summed, columns]
        ends = [[label] for label in batch + rows + columns]
        found = [*left[:-1], columns]
        if None in (self._target(left), self._target(right), self._target(ends, found)):
            return False
        value = self._add("MatMul", [self._grouped(a, of_a, left), self._grouped(b, of_b, right)], self._dims(found))
        if found != ends:
            value = self._reshape(value, ends, found)
        self.transpose(value, batch + rows + columns, result)
        return True

    def transpose(self, value: ir.Value, labels: Labels, wanted: Labels) -> ir.Value:
        """The value with its axes in another order."""
        order = [list(labels).index(label) for label in wanted]
        array = constant_array(value)
        if order == sorted(order):
            return value
        if array is not None:
            return initializer(self.graph, f"{value.name}_turned", np.ascontiguousarray(array.transpose(order)))
        return self._add("Transpose", [value], self._dims([[label] for label in wanted]), perm=order)

    def _outer(self, a: tuple[ir.Value, str], b: tuple[ir.Value, str], result: str) -> bool:
        """Nothing is summed: each operand broadcasts over what it lacks."""
        groups = [[[label] if label in labels else [] for label in result] for _, labels in (a, b)]
        if any(self._target(each) is None for each in groups):
            return False
        operands = [self._grouped(*one, each) for one, each in zip((a, b), groups, strict=True)]
        self._add("Mul", operands, self._dims([[label] for label in result]))
        return True

    def _grouped(self, value: ir.Value, labels: str, groups: Sequence[Labels]) -> ir.Value:
        """The operand with an axis for each group of its labels, 1 where one is empty."""
        value = self.transpose(value, labels, [label for group in groups for label in group])
        return value if all(len(group) == 1 for group in groups) else self._reshape(value, groups)

    def _target(self, groups: Sequence[Labels], given: Sequence[Labels] | None = None) -> list[int] | None:
        """What a Reshape is to be given; None where more than one size is open beyond those that stay in place.

        given: the groups before; None: an axis for each label.
        """
        given = [[label] for group in groups for label in group] if given is None else given
        alike = [a == b for a, b in zip(groups, given, strict=False)] + [False] * len(groups)
        target = []
        for place, group in enumerate(groups):
            size = self._size(group)
            target.append(0 if all(alike[: place + 1]) else -1 if size is None else size)
        return None if target.count(-1) > 1 else target

    def _size(self, group: Labels) -> int | None:
        known = [self.sizes[label] for label in group]
        return None if None in known else math.prod(size or 0 for size in known)

    def _dims(self, groups: Sequence[Labels]) -> ir.Shape:
        return ir.Shape([self._size(group) for group in groups])

    def _reshape(self, value: ir.Value, groups: Sequence[Labels], given: Sequence[Labels] | None = None) -> ir.Value:
        array, target = constant_array(value), self._target(groups, given)
        if array is not None:
            sizes = [self._size(group) or 0 for group in groups]
            return initializer(self.graph, f"{value.name}_grouped", array.reshape(sizes))
        sizes_value = initializer(self.graph, f"{self.name}_sizes_{len(self.new)}", np.array(target, np.int64))
        return self._add("Reshape", [value, sizes_value], self._dims(groups))

    def _add(self, op_type: str, operands: list[ir.Value], shape: ir.Shape, **attributes: Sequence[int]) -> ir.Value:
        name = f"{self.name}_{op_type}_{len(self.new)}"
        self.new.append(ir.node(op_type, operands, attributes, name=name))
        value = self.new[-1].outputs[0]
        name_value(value, f"{name}_result", ir.TensorType(ir.DataType.FLOAT), shape)
        return value
