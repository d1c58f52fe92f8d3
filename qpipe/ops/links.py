"""What stands between scores and an output: a Softmax, a Sigmoid, a choice; and what only moves numbers about.

A loss that knows it reads what is before it, where its gradient is stable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import onnx_ir as ir

from qpipe.nodes import constant_array, constant_input, describe, int_attribute, ints_attribute, rank, static_shape
from qpipe.ops.quantizer_parts import is_border

Link = Literal["softmax", "sigmoid"]
_LINKS: Final[dict[str, Link]] = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
_MOVES: Final = frozenset(
    {"Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Gather", "Slice", "Cast"}
)
_STAYS: Final = frozenset({"Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
# Of probabilities: a Clip keeps their logarithm finite, which needs it no more.
_BEHIND_A_LINK: Final = frozenset({"Clip", "Log"})
_IN_PLACE: Final = frozenset({"Identity", "Dropout", "Slice", "Cast", *_BEHIND_A_LINK})
_CHOICES: Final = frozenset({"ArgMax", "TopK"})
# Elementwise by constants: a link before them would be missed by who looks at the output alone.
_CHANGES: Final = frozenset({"Neg", "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Exp"})

_POSITIVE: Final = frozenset({"Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus"})


@dataclass(frozen=True)
class Ends:
    """How a value comes about.

    link: what it is the probability of, by Softmax or Sigmoid; links: these nodes, and those that only follow them.
    choice: the node that chose the classes that the value is. disguised: a link whose result is changed afterwards, or
    that is over something else than the scores of an image or pixel. over: the axis of the value that a Softmax is
    over; None where there is none, or it moved. is_positive: whether no number can be negative, so that 0 divides
    nothing, as behind a HardSigmoid or a Sigmoid that is written out.
    """

    link: Link | None = None
    links: tuple[ir.Node, ...] = ()
    choice: ir.Node | None = None
    disguised: ir.Node | None = None
    over: int | None = None
    is_positive: bool = False

    @property
    def axis(self) -> int | None:
        """The axis over which classes were chosen."""
        return None if self.choice is None else int_attribute(self.choice, "axis", _AXIS[self.choice.op_type])

    @property
    def words(self) -> str:
        """The nodes that a stable loss looks through, such as "Softmax 'prob'"; "" of none."""
        return " and ".join(describe(node) for node in self.links)


_AXIS: Final = {"ArgMax": 0, "TopK": -1}


def ends_of(value: ir.Value) -> Ends:
    """Look at what computes a value, through what only moves its numbers."""
    behind: list[ir.Node] = []
    passed: list[ir.Node] = []
    changed = False
    for node in _back(value):
        if node.op_type in _CHOICES:
            # The largest values themselves are no choice.
            is_choice = node.op_type == "ArgMax" or (value.dtype is ir.DataType.INT64 and _ranks_best(node))
            return Ends(choice=node if is_choice else None)
        if node.op_type in _LINKS:
            link, is_plain = _LINKS[node.op_type], not changed and _is_over_scores(node, value)
            return Ends(link, (node, *behind), over=_over(node, passed)) if is_plain else Ends(disguised=node)
        if node.op_type in _BEHIND_A_LINK:
            behind.append(node)
        passed.append(node)
        changed = changed or node.op_type in _CHANGES
    return Ends(is_positive=_is_positive(value))


def keeps_order(node: ir.Node) -> bool:
    """Whether the order of an image's scores, and their sides of 0 or a half, are the same before and behind a node."""
    return node.op_type in _STAYS or (node.op_type in _LINKS and _is_over_scores(node, node.outputs[0]))


def _is_positive(value: ir.Value | None, steps: int = 10) -> bool:
    """Whether the last ops before a value, so many at most, leave no negative number."""
    constant, node = constant_array(value), None if value is None else value.producer()
    if constant is not None:
        return bool((constant >= 0).all())
    if node is None or not steps:
        return False
    if node.op_type == "Clip":
        low = constant_input(node, 1)
        return low is not None and bool((low >= 0).all())
    if is_border(node) and _has_no_negatives(node):
        return True
    if is_border(node) or node.op_type in _MOVES | {"Sqrt", "Reciprocal"}:
        return _is_positive(node.inputs[0], steps - 1)
    return node.op_type in _POSITIVE or (
        node.op_type in {"Add", "Mul", "Div", "Pow"} and all(_is_positive(each, steps - 1) for each in node.inputs)
    )


def _has_no_negatives(quantizer: ir.Node) -> bool:
    """Whether its codes begin at 0, as where a Relu or a Clip is part of it."""
    zero = constant_input(quantizer, 2)
    return zero is not None and zero.dtype.kind == "u" and not zero.any()


def _ranks_best(topk: ir.Node) -> bool:
    """Whether the first that a TopK gives is the largest."""
    return bool(int_attribute(topk, "largest", 1)) and bool(int_attribute(topk, "sorted", 1))


def _is_over_scores(node: ir.Node, output: ir.Value) -> bool:
    """Whether a link leaves the order of all scores of an image, or of those of a pixel, as it is.

    A Softmax over images, or over each of several groups whose results become one row, does not.
    """
    if _LINKS[node.op_type] != "softmax" or node.inputs[0] is None:
        return True
    axis, shape, given = int_attribute(node, "axis", -1), static_shape(node.inputs[0]), static_shape(output)
    if shape is None or len(shape) < 2:
        return axis != 0
    axis %= len(shape)
    groups = [size for i, size in enumerate(shape) if i not in (0, axis) and size != 1]
    is_row = given is not None and sum(size != 1 for size in given[1:]) <= 1
    return axis != 0 and not (groups and is_row)


def _over(node: ir.Node, passed: Sequence[ir.Node]) -> int | None:
    """The axis of a Softmax behind the nodes that follow it, the last one first."""
    dims = rank(node.inputs[0])
    if _LINKS[node.op_type] != "softmax" or dims is None:
        return None
    axis = int_attribute(node, "axis", -1) % dims
    for each in reversed(passed):
        if each.op_type == "Transpose":
            axis = ints_attribute(each, "perm", tuple(reversed(range(dims)))).index(axis)
        elif each.op_type not in _IN_PLACE:
            return None
    return axis


def _back(value: ir.Value) -> Iterator[ir.Node]:
    """The nodes before a value, from the last, along first inputs, as far as they only move or change numbers."""
    node = value.producer()
    while node is not None:
        yield node
        if node.op_type not in _MOVES | _BEHIND_A_LINK | _CHANGES or not node.inputs:
            return
        varying = [v for v in node.inputs if v is not None and constant_array(v) is None]
        if not varying or (node.op_type in _CHANGES and len(varying) > 1):
            return
        node = varying[0].producer()
