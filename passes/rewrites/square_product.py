"""Write a product of a value and itself as its square: a function of one number, which is a table.

    x x  =  Pow(x, 2)

Where it leads to weights alone; a float one stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.edges import leading_to_weights
from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_array, initializer


@dataclass(frozen=True, kw_only=True)
class SquareProduct(ir.passes.InPlacePass):
    """Each Mul of one computed value twice."""

    name: ClassVar[str] = "square-product"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        leading = leading_to_weights(model.graph)

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            return node.outputs[0] in leading and _try_replace(graph, node)

        return rewrite(model, {"Mul"}, attempt)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    x, other = node.inputs
    if x is None or x is not other or constant_array(x) is not None or x.dtype not in {ir.DataType.FLOAT, None}:
        return False
    two = initializer(graph, f"{node.name or node.outputs[0].name}_exponent", np.float32(2))
    new = ir.node("Pow", [x, two], name=node.name)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], node.outputs, new.outputs)
    return True
