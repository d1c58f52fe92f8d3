"""Resize by means of two axes, one axis after the other, where only so each has an integer form.

With `align_corners` the weights are fractions of `new - 1`: of both axes together they are too fine for float32 to
round their means rightly on more than a few pixels, of one axis they are not (see `qpipe.ops.interpolation`). The
numbers are the same; between both there is one more rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import initializer, static_shape
from qpipe.ops import op_of
from qpipe.ops.resize import scalings


@dataclass(frozen=True, kw_only=True)
class SplitResize(ir.passes.InPlacePass):
    """Every Resize that has no integer form as it stands, and has one for each axis."""

    name: ClassVar[str] = "split-resize"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        return rewrite(model, {"Resize"}, _try_split)


def _try_split(graph: ir.Graph, node: ir.Node) -> bool:
    source, result = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    if op_of(node).refusal(node) is None or source is None or result is None or None in (*source[1:], *result[1:]):
        return False
    # A factor is more than the sizes say: 4 pixels are 2 by 2/3 as by 1/2, at other places.
    found = scalings(node, [size or 0 for size in source])
    if len(found) < 2 or min(found) < 1 or len(source) != len(result):
        return False
    value, sizes, new = node.inputs[0], list(source), []
    for axis, along in sorted(found.items()):
        size, target = sizes[axis] or 1, result[axis] or 1
        factors = np.ones(len(source), np.float32)
        factors[axis] = float(along.factor)
        if int(factors[axis] * np.float32(size)) != target:
            return False
        sizes[axis] = target
        scales = ir.Value(name="", const_value=ir.tensor(factors))
        step = ir.node("Resize", [value, None, scales], node.attributes.copy(), name=f"{node.name}_{axis}")
        step.attributes.pop("axes", None)
        value = step.outputs[0]
        value.type, value.shape = node.outputs[0].type, ir.Shape(sizes)
        if op_of(step).refusal(step) is not None:
            return False
        new.append((step, factors))
    for step, factors in new:
        step.replace_input_with(2, initializer(graph, f"{step.name}_scales", factors))
    nodes = [step for step, _ in new]
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, node.outputs, nodes[-1].outputs)
    return True
