"""Which layers are a network's first and last: no other that has weights is before, or behind, them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import onnx_ir as ir

from qpipe.nodes import reads
from qpipe.ops import becomes_weighted


class Passage(NamedTuple):
    """What lies between values: whether it multiplies by weights, the values that it reads, and the one it gives."""

    is_weighted: bool
    reads: tuple[ir.Value, ...]
    gives: ir.Value


def before_weights(inputs: Iterable[ir.Value], passages: Iterable[Passage]) -> set[ir.Value]:
    """What the inputs reach without passing weights: what a first layer reads. passages: in topological order."""
    reached = set(inputs)
    for passage in passages:
        if not passage.is_weighted and any(value in reached for value in passage.reads):
            reached.add(passage.gives)
    return reached


def feeding_weights(passages: Sequence[Passage]) -> set[ir.Value]:
    """What leads to weights: nothing behind a last layer does, be it followed by an activation or a pool or not."""
    feeding: set[ir.Value] = set()
    for passage in reversed(passages):
        if passage.is_weighted or passage.gives in feeding:
            feeding.update(passage.reads)
    return feeding


def leading_to_weights(graph: ir.Graph) -> set[ir.Value]:
    """The values from which a layer of weights is reached, whatever lies between."""
    found: set[ir.Value] = set()
    for node in reversed(graph):
        if becomes_weighted(node) or not found.isdisjoint(node.outputs):
            found.update(reads(node))
    return found
