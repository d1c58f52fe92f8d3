"""Put the axis of a Softmax last, where it has an integer form: along rows.

Softmax(x, axis) = T(Softmax(T(x), -1)), T a Transpose that exchanges the axis with the last one. Behind the last
weights, where it stays float, it stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.ir.graph.edges import leading_to_weights
from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import int_attribute, name_value, rank


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
    x, dims = node.inputs[0], rank(node.inputs[0])
    if x is None or dims is None:
        return False
    axis = int_attribute(node, "axis", -1) % dims
    if axis == dims - 1:
        return False
    order = list(range(dims))
    order[axis], order[-1] = order[-1], order[axis]
    shape = None if x.shape is None else ir.Shape([x.shape[i] for i in order])
    before = ir.node("Transpose", [x], {"perm": order}, name=f"{node.name}/before")
    softmax = ir.node("Softmax", before.outputs, {"axis": -1}, name=node.name)
    behind = ir.node("Transpose", softmax.outputs, {"perm": order}, name=f"{node.name}/behind")
    kind = node.outputs[0].type or ir.TensorType(ir.DataType.FLOAT)
    for new in (before, softmax):
        name_value(new.outputs[0], f"{new.name}/turned", kind, shape)
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], [before, softmax, behind], node.outputs, behind.outputs
    )
    return True
