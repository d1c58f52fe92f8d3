"""Masks of attention: numbers that only say "far below" to a Softmax, however large."""

from __future__ import annotations

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
    seen: set[ir.Value] = set()
    stack = [value]
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        readers = list(current.consumers())
        if current.is_graph_output() or not readers:
            return False
        for node in readers:
            if node.domain not in STANDARD_DOMAINS or node.op_type not in _BETWEEN | {"Softmax"}:
                return False
            if node.op_type != "Softmax":
                stack.extend(node.outputs)
    return True
