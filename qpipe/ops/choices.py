"""ArgMax, ArgMin and TopK: what only asks which of several numbers of one unit are the largest.

Integers are in the order of the real numbers that they stand for, and equal where these are. So a choice reads them as
they are, and gives the same places, the first of equal ones first or the last, as its node says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from qpipe.nodes import STANDARD_DOMAINS
from qpipe.ops.masks import MOVES

_CHOICES: Final = frozenset({"ArgMax", "ArgMin", "TopK"})
_WITH_NUMBERS: Final = frozenset({"TopK"})


@dataclass(frozen=True)
class Choice:
    """What reads a value for its order alone.

    entry: the reader. moved: what is moved between it and the choices. numbers: those among their results that are the
    value's own numbers.
    """

    entry: ir.Node
    moved: tuple[ir.Value, ...]
    numbers: tuple[ir.Value, ...]


def choices_of(value: ir.Value) -> Iterator[Choice]:
    """Of a value's readers those that choose, or that only move it to where all do."""
    for entry in dict.fromkeys(value.consumers()):
        choice = _choice(entry, value)
        if choice is not None:
            yield choice


def _choice(entry: ir.Node, value: ir.Value) -> Choice | None:
    moved, numbers = list[ir.Value](), list[ir.Value]()
    stack = [(entry, value)]
    while stack:
        node, read = stack.pop()
        if node.domain not in STANDARD_DOMAINS or node.inputs[0] is not read or read in node.inputs[1:]:
            return None
        if node.op_type in _CHOICES:
            numbers += [node.outputs[0]] if node.op_type in _WITH_NUMBERS else []
            continue
        result = node.outputs[0]
        readers = list(dict.fromkeys(result.consumers()))
        if node.op_type not in MOVES or result.is_graph_output() or not readers:
            return None
        moved.append(result)
        stack.extend((reader, result) for reader in readers)
    return Choice(entry, tuple(moved), tuple(numbers))
