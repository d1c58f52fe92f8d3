"""Write a GatherElements by places that are the same for all images as a Gather by their list.

    GatherElements(x [N, Q, M], Expand(c [1, Q, K], [N, Q, K]), axis = 2)
        =  Reshape(Gather(Reshape(x, [N, Q M]), M i + c[i, j], axis = 1), [N, Q, K])                     bit for bit

It is how DeBERTa takes, for each pair of tokens, the score of their distance. Source: ONNX operator specification,
GatherElements-13.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray
from qpipe.ir.graph.rewrite import Steps, rewrite
from qpipe.nodes import constant_array, int_attribute, static_shape


@dataclass(frozen=True, kw_only=True)
class GatherElementsToGather(ir.passes.InPlacePass):
    """Each along the last axis of computed floats, by constants in the last two axes, expanded to the others."""

    name: ClassVar[str] = "gather-elements-to-gather"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match; what expanded the places is left to dead-code removal."""
        return rewrite(model, {"GatherElements"}, _try_replace)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    x, index = node.inputs
    sizes, asked, places = static_shape(x), static_shape(index), _same_for_all(index)
    if x is None or x.shape is None or not sizes or not asked or places is None or constant_array(x) is not None:
        return False
    dims = len(sizes)
    *first, rows, length = sizes
    if dims < 3 or int_attribute(node, "axis", 0) % dims != dims - 1 or x.dtype != ir.DataType.FLOAT:
        return False
    # Of the others it takes the first, of all sizes that are asked for: here these are all that there are.
    takes_all = first == list(asked[:-2]) and None not in first[1:] and rows == len(places)
    if not takes_all or not length or not rows or not places.size or index is None or index.shape is None:
        return False
    if first[0] is None and index.shape.dims[0] != x.shape.dims[0]:
        return False
    if places.min() < -length or places.max() >= length:
        return False
    listed = places % length + length * np.arange(rows)[:, None]
    lead, opened = list(x.shape.dims[:-2]), [-1, *(size or 0 for size in first[1:])]
    steps = Steps(graph, node, x)
    steps.add("Reshape", "rows", [np.array([*opened, rows * length])], [*lead, rows * length])
    steps.add("Gather", "list", [listed.reshape(-1).astype(np.int64)], [*lead, listed.size], axis=dims - 2)
    steps.add("Reshape", "", [np.array([*opened, *listed.shape])], [*lead, *listed.shape])
    steps.replace()
    return True


def _same_for_all(index: ir.Value | None) -> AnyArray | None:
    """Places `[Q, K]` that a list expands to all its first axes; None where it is none."""
    giver = None if index is None else index.producer()
    source = giver.inputs[0] if giver is not None and giver.op_type == "Expand" and giver.domain == "" else index
    array = None if source is None else constant_array(source)
    if array is None or array.ndim < 2 or any(size != 1 for size in array.shape[:-2]):
        return None
    asked = static_shape(index)
    found: AnyArray = array.reshape(array.shape[-2:])
    return found if asked is not None and tuple(asked[-2:]) == found.shape else None
