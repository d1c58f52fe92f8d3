"""Write a Split as one Slice for each part that is read.

    Split(x, [a, b, ...])  =  Slice(x, 0, a), Slice(x, a, a + b), ...          along the axis, bit for bit

Without sizes the parts are equal, and of `num_outputs` the last may be shorter. Source: ONNX operator specification,
Split-18.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_input, initializer, input_value, int_attribute, static_shape


@dataclass(frozen=True, kw_only=True)
class SplitToSlices(ir.passes.InPlacePass):
    """Every Split of floats whose sizes are constants, or follow from the axis."""

    name: ClassVar[str] = "split-to-slices"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        return rewrite(model, {"Split"}, _try_replace)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    x, shape = node.inputs[0], static_shape(node.inputs[0])
    if x is None or x.dtype != ir.DataType.FLOAT or shape is None:
        return False
    axis = int_attribute(node, "axis", 0) % len(shape)
    sizes = _sizes(node, shape[axis])
    if sizes is None:
        return False
    used = [
        (value, part)
        for value, part in zip(node.outputs, pairwise(accumulate(sizes, initial=0)), strict=True)
        if value.uses() or value.is_graph_output()
    ]
    name = node.name or str(node.outputs[0].name)
    slices = []
    for i, (_, (start, end)) in enumerate(used):
        bounds = [initializer(graph, f"{name}_{what}", np.array([at])) for what, at in
                  (("start", start), ("end", end), ("axis", axis))]  # fmt: skip
        slices.append(ir.node("Slice", [x, *bounds], name=f"{name}_{i}"))
    old, new = [value for value, _ in used], [part.outputs[0] for part in slices]
    ir.convenience.replace_nodes_and_values(graph, node, [node], slices, old, new)
    return True


def _sizes(node: ir.Node, length: int | None) -> list[int] | None:
    """Of each part; None where they are computed, or hang on an axis of unknown length."""
    count = len(node.outputs)
    if input_value(node, 1) is not None:
        constant = constant_input(node, 1)
        return None if constant is None or constant.size != count else [int(size) for size in constant.reshape(-1)]
    if length is None:
        return None
    part = -(-length // count)
    return [min(part, max(length - start * part, 0)) for start in range(count)]
