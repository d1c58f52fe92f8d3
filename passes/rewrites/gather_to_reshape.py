"""Take a Gather of every element in order for the Reshape that it is.

    Gather(Reshape(x, [-1]), [[0, 1], [2, 3], ...])  =  Reshape(x, [-1, 2])

PyTorch's dynamo exporter writes this for `as_strided`, which stands behind its global average pooling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray
from qpipe.ir.files.open_size import UnknownError
from qpipe.ir.files.size_lists import Lists
from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_input, initializer, int_attribute, rank, static_shape

_BATCHES: Final = (2, 3)
_MOST_PLACES: Final = 2**16
"""Elements of such a vector of a few samples: a pool's result is short."""
_MOST_NODES: Final = 64
"""That its places are computed by."""


@dataclass(frozen=True, kw_only=True)
class GatherToReshape(ir.passes.InPlacePass):
    """Every Gather from a vector, by places that are all of it in order: constant, or computed from an open batch."""

    name: ClassVar[str] = "gather-to-reshape"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""

        return rewrite(model, {"Gather"}, _try_replace)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    places, shape = constant_input(node, 1), static_shape(node.inputs[0])
    if places is not None:
        target: Sequence[int] | None = places.shape if shape is not None and _takes_all(node, places, shape) else None
    else:
        target = _at_any_batch(node)
    if target is None:
        return False
    vector, result = node.inputs[0], node.outputs[0]
    assert vector is not None
    x, name = _unflattened(vector), node.name or str(result.name)
    sizes = initializer(graph, f"{name}_shape", np.array(target, np.int64))
    reshape = ir.node("Reshape", [x, sizes], name=name)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [reshape], [result], reshape.outputs)
    return True


def _takes_all(node: ir.Node, places: AnyArray, shape: Sequence[int | None]) -> bool:
    """Whether a Gather takes each element of a vector of this shape once, in order."""
    is_vector = len(shape) == 1 and int_attribute(node, "axis", 0) in (0, -1)
    return is_vector and shape[0] == places.size > 0 and np.array_equal(places.reshape(-1), np.arange(places.size))


def _at_any_batch(node: ir.Node) -> list[int] | None:
    """What a Gather gives whose places are computed from the batch, -1 for it; None where it doesn't take all."""
    vector, places = node.inputs[:2]
    if vector is None or places is None or rank(vector) != 1:
        return None
    behind: set[tuple[int, ...]] = set()
    for batch in _BATCHES:
        lists = Lists(at=batch, longest=_MOST_PLACES)
        try:
            length = math.prod(lists.sizes(_unflattened(vector)))
        except UnknownError:
            return None
        _follow(lists, places)
        found = lists.array(places)
        if found is None or not _takes_all(node, found, [length]):
            return None
        behind.add(found.shape[1:])
    return [-1, *behind.pop()] if len(behind) == 1 else None


def _follow(lists: Lists, value: ir.Value) -> None:
    """Along everything that the value is computed from, back to where shapes are read."""
    waiting, needed = [value], set[ir.Node]()
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node not in needed and len(needed) < _MOST_NODES:
            needed.add(node)
            if node.op_type != "Shape":
                waiting += [read for read in node.inputs if read is not None]
    for node in value.graph or ():
        if node in needed:
            lists.follow(node)


def _unflattened(vector: ir.Value) -> ir.Value:
    """What a vector was before it was one: the same elements in the same order."""
    giver = vector.producer()
    x = giver.inputs[0] if giver is not None and giver.op_type in ("Reshape", "Flatten") else vector
    assert x is not None
    return x
