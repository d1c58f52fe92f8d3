"""Write a PRelu of more than one slope as a sum of its two sides, where it leads to weights.

    PRelu(x, s)  =  Relu(x) + s Min(x, 0)

Each side is exact in float32, and one of them is 0. The slopes are a factor for each channel, which has an integer
form; a PRelu of one slope is a table as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.edges import leading_to_weights
from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_input, initializer, name_value


@dataclass(frozen=True, kw_only=True)
class PReluToLines(ir.passes.InPlacePass):
    """Each PRelu whose slopes are constants; equal ones become one number, and the node stays."""

    name: ClassVar[str] = "prelu-to-lines"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        leading = leading_to_weights(model.graph)

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            return node.outputs[0] in leading and _try_replace(graph, node)

        return rewrite(model, {"PRelu"}, attempt)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    slopes, x = constant_input(node, 1), node.inputs[0]
    if slopes is None or x is None or slopes.size < 2:
        return False
    name, output = str(node.name or node.outputs[0].name), node.outputs[0]
    if (slopes == slopes.flat[0]).all():
        node.replace_input_with(1, initializer(graph, f"{name}_slope", np.asarray(slopes.flat[0])))
        return True
    zero = initializer(graph, f"{name}_zero", np.zeros((), slopes.dtype))
    above = ir.node("Relu", [x], name=f"{name}_above")
    below = ir.node("Clip", [x, None, zero], name=f"{name}_below")
    scaled = ir.node("Mul", [below.outputs[0], node.inputs[1]], name=f"{name}_scaled")
    total = ir.node("Add", [above.outputs[0], scaled.outputs[0]], name=node.name)
    for new in (above, below, scaled):
        name_value(new.outputs[0], f"{new.name}_output", ir.TensorType(ir.DataType.FLOAT), output.shape)
    nodes = [above, below, scaled, total]
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, node.outputs, total.outputs)
    return True
