"""Write a GatherND by constant places as a Gather by their list, along the axes that they lie on.

    x[:, i, j]  =  GatherND(Transpose(x, [1, 2, 0]), [[i, j], ...])  behind which a Transpose brings the batch back
                =  Gather(Reshape(x, [N, I J]), i J + j, axis = 1)                                       bit for bit

It is how PyTorch writes an indexing by several lists, and pools of sizes that don't divide. The axes must stand side by
side, and not be the first. Source: ONNX operator specification, GatherND-13.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import Steps, rewrite
from qpipe.nodes import constant_array, constant_input, int_attribute, ints_attribute


@dataclass(frozen=True, kw_only=True)
class GatherNDToGather(ir.passes.InPlacePass):
    """Each of computed floats behind a Transpose that brings its axes to the front."""

    name: ClassVar[str] = "gather-nd-to-gather"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        return rewrite(model, {"GatherND"}, _try_replace)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    turned, places = node.inputs[0], constant_input(node, 1)
    before = None if turned is None else turned.producer()
    if before is None or before.op_type != "Transpose" or places is None or int_attribute(node, "batch_dims", 0):
        return False
    x, count = before.inputs[0], places.shape[-1]
    if x is None or x.shape is None or x.dtype != ir.DataType.FLOAT or constant_array(x) is not None:
        return False
    dims = list(x.shape.dims)
    order = ints_attribute(before, "perm", range(len(dims))[::-1])
    axis, others = order[0], list(order[count:])
    known = [size for size in dims[axis : axis + count] if isinstance(size, int)]
    along = list(order[:count]) == list(range(axis, axis + count)) and others == sorted(others)
    if axis == 0 or not along or len(known) < count:
        return False
    steps_of = np.array([math.prod(known[i + 1 :]) for i in range(count)])
    listed = (np.where(places < 0, places + known, places) @ steps_of).astype(np.int64)
    first, last = dims[:axis], dims[axis + count :]
    if sum(not isinstance(size, int) for size in (*first, *last)) > 1 or 0 in dims:
        return False

    def shape(middle: list[int]) -> np.ndarray:
        return np.array([size if isinstance(size, int) else -1 for size in (*first, *middle, *last)], np.int64)

    steps, found = Steps(graph, node, x), list(listed.shape)
    steps.add("Reshape", "together", [shape([math.prod(known)])], [*first, math.prod(known), *last])
    steps.add("Gather", "list", [listed.reshape(-1)], [*first, listed.size, *last], axis=axis)
    steps.add("Reshape", "apart", [shape(found)], [*first, *found, *last])
    turn = [*range(axis, axis + len(found)), *range(axis), *range(axis + len(found), len(found) + len(others))]
    steps.add("Transpose", "", [], [*found, *first, *last], perm=turn)
    steps.replace()
    return True
