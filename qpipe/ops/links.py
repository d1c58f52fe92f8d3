"""What stands between scores and an output: a Softmax, a Sigmoid, a choice; and what only moves numbers about.

A loss that knows it reads what is before it, where its gradient is stable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import onnx_ir as ir

from qpipe.nodes import constant_array, describe, int_attribute

Link = Literal["softmax", "sigmoid"]
_LINKS: Final[dict[str, Link]] = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
_MOVES: Final = frozenset(
    {"Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Gather", "Slice", "Cast"}
)
_STAYS: Final = frozenset({"Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
# Of probabilities: a Clip keeps their logarithm finite, which needs it no more.
_BEHIND_A_LINK: Final = frozenset({"Clip", "Log"})
_CHOICES: Final = frozenset({"ArgMax", "TopK"})
# Elementwise by constants: a link before them would be missed by who looks at the output alone.
_CHANGES: Final = frozenset({"Neg", "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Exp"})


@dataclass(frozen=True)
class Ends:
    """How a value comes about.

    link: what it is the probability of, by Softmax or Sigmoid; links: these nodes, and those that only follow them.
    choice: the node that chose the classes that the value is. disguised: a link whose result is changed afterwards.
    """

    link: Link | None = None
    links: tuple[ir.Node, ...] = ()
    choice: ir.Node | None = None
    disguised: ir.Node | None = None

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
    changed = False
    for node in _back(value):
        if node.op_type in _CHOICES:
            # The largest values themselves are no choice.
            is_choice = node.op_type == "ArgMax" or value.dtype is ir.DataType.INT64
            return Ends(choice=node if is_choice else None)
        if node.op_type in _LINKS:
            link = _LINKS[node.op_type]
            return Ends(disguised=node) if changed else Ends(link, (node, *behind))
        if node.op_type in _BEHIND_A_LINK:
            behind.append(node)
        changed = changed or node.op_type in _CHANGES
    return Ends()


def keeps_order(node: ir.Node) -> bool:
    """Whether the order of an image's scores, and their sides of 0 or a half, are the same before and behind a node."""
    return node.op_type in _LINKS or node.op_type in _STAYS


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
