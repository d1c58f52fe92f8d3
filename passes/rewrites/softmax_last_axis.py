"""Put the axis of a Softmax last, where it has an integer form: along rows.

Softmax(x, axis) = T(Softmax(T(x), -1)), T a Transpose that exchanges the axis with the last one. Behind the last
weights, where it stays float, it stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.ir.graph.edges import leading_to_weights
from qpipe.ir.graph.rewrite import Steps, rewrite
from qpipe.nodes import int_attribute


@dataclass(frozen=True, kw_only=True)
class SoftmaxLastAxis(ir.passes.InPlacePass):
    """Every Softmax that leads to weights, along another axis than the last, of an input whose rank is known."""

    name: ClassVar[str] = "softmax-last-axis"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every match."""
        leading = leading_to_weights(model.graph)

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            return node.outputs[0] in leading and _try_turn(graph, node)

        return rewrite(model, {"Softmax"}, attempt)


def _try_turn(graph: ir.Graph, node: ir.Node) -> bool:
    x = node.inputs[0]
    if x is None or x.shape is None:
        return False
    dims = x.shape.dims
    axis = int_attribute(node, "axis", -1) % len(dims)
    if axis == len(dims) - 1:
        return False
    order = list(range(len(dims)))
    order[axis], order[-1] = order[-1], order[axis]
    turned, steps = [dims[i] for i in order], Steps(graph, node, x)
    steps.add("Transpose", "before", [], turned, perm=order)
    steps.add("Softmax", "", [], turned, axis=-1)
    steps.add("Transpose", "behind", [], dims, perm=order)
    steps.replace()
    return True
