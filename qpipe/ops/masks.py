"""Masks of attention: numbers that only say "far below" to a Softmax, however large."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import onnx_ir as ir

from qpipe.nodes import STANDARD_DOMAINS

SUMS: Final = frozenset({"Add", "Sub"})
CHOICES: Final = frozenset({"Where"})
MOVES: Final = frozenset({"Unsqueeze", "Squeeze", "Expand", "Reshape", "Flatten", "Transpose", "Slice", "Identity"})
"""What carries a mask, or what it was added to, and computes nothing."""
_BETWEEN: Final = SUMS | CHOICES | MOVES | {"Mul", "Cast", "CastLike", "Clip", "Max"}


def leads_to_softmax(value: ir.Value) -> bool:
    """Whether a value does nothing but lower what a Softmax reads: any number that is low enough does the same."""
    return set(_uses(value)) == {True}


def lowers_softmax(value: ir.Value) -> bool:
    """Whether a value lowers what a Softmax reads, whatever else it does."""
    return True in _uses(value)


def _uses(value: ir.Value) -> Iterator[bool]:
    """For each end of what is made of a value by what a mask passes: whether it is a Softmax."""
    seen: set[ir.Value] = set()
    stack = [value]
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        readers = list(current.consumers())
        if current.is_graph_output() or not readers:
            yield False
        for node in readers:
            # Rows of a table are looked up, by whatever says which.
            is_table = node.op_type == "Gather" and node.inputs[0] is current
            if node.domain in STANDARD_DOMAINS and (node.op_type in _BETWEEN or is_table):
                stack.extend(node.outputs)
            else:
                yield node.domain in STANDARD_DOMAINS and node.op_type == "Softmax"
