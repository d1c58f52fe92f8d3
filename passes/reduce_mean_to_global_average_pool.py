"""Write a mean over all spatial positions as GlobalAveragePool, so that pooling has one form.

ReduceMean(x [N, C, ...], axes = all from 2 on, keepdims = 1) = GlobalAveragePool(x) [N, C, 1, ...];
keepdims = 0 flattens it to [N, C].
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_input, int_attribute, rank


@dataclass(frozen=True, kw_only=True)
class ReduceMeanToGlobalAveragePool(ir.passes.InPlacePass):
    """ReduceMean over exactly the spatial axes becomes GlobalAveragePool, and Flatten where it drops them."""

    name: ClassVar[str] = "reduce-mean-to-global-average-pool"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match; axes that are not constant and inputs of unknown rank don't match."""
        return rewrite(model, {"ReduceMean"}, _try_replace)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    x, axes = node.inputs[0], constant_input(node, 1)
    x_rank = rank(x)
    if x is None or x.shape is None or axes is None or x_rank is None or x_rank < 3:
        return False
    if {int(axis) % x_rank for axis in axes.flatten()} != set(range(2, x_rank)):
        return False
    pool = ir.node("GlobalAveragePool", [x], name=node.name)
    new_nodes = [pool]
    if not int_attribute(node, "keepdims", 1):
        pooled = pool.outputs[0]
        pooled.name = f"{node.outputs[0].name}_pooled"
        pooled.type = node.outputs[0].type
        pooled.shape = ir.Shape([*x.shape[:2], *[1] * (x_rank - 2)])
        new_nodes.append(ir.node("Flatten", [pooled], {"axis": 1}, name=f"{node.name}_flatten" if node.name else None))
    ir.convenience.replace_nodes_and_values(graph, node, [node], new_nodes, node.outputs, new_nodes[-1].outputs)
    return True
