"""Write a Gather by a table of places as a Gather by their list, and a Reshape.

    Gather(x, [[a, b], [c, d]])  =  Reshape(Gather(x, [a, b, c, d]))        bit for bit, along any axis

One size of the result may be open, which is the batch. Source: ONNX operator specification, Gather-13.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import Steps, rewrite
from qpipe.nodes import constant_array, constant_input, int_attribute


@dataclass(frozen=True, kw_only=True)
class GatherLists(ir.passes.InPlacePass):
    """Every Gather of computed floats by constant places of two dimensions or more."""

    name: ClassVar[str] = "gather-lists"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        return rewrite(model, {"Gather"}, _try_replace)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    x, places = node.inputs[0], constant_input(node, 1)
    if x is None or x.shape is None or x.dtype != ir.DataType.FLOAT or constant_array(x) is not None:
        return False
    if places is None or places.ndim < 2:
        return False
    axis = int_attribute(node, "axis", 0) % len(x.shape)
    before, behind = x.shape.dims[:axis], x.shape.dims[axis + 1 :]
    sizes = [size if isinstance(size, int) else -1 for size in (*before, *places.shape, *behind)]
    if sizes.count(-1) > 1 or 0 in sizes:
        return False
    steps = Steps(graph, node, x)
    steps.add("Gather", "", [places.reshape(-1)], [*before, places.size, *behind], axis=axis)
    steps.add("Reshape", "reshape", [np.array(sizes, np.int64)], [*before, *places.shape, *behind])
    steps.replace()
    return True
