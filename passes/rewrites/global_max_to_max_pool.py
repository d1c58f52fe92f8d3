"""Write a GlobalMaxPool as a MaxPool whose kernel is the whole image.

GlobalMaxPool(x [N, C, H, W])  =  MaxPool(x, kernel_shape = [H, W])                             bit for bit
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import static_shape


@dataclass(frozen=True, kw_only=True)
class GlobalMaxToMaxPool(ir.passes.InPlacePass):
    """Every GlobalMaxPool of an image whose size is known."""

    name: ClassVar[str] = "global-max-to-max-pool"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        return rewrite(model, {"GlobalMaxPool"}, _try_replace)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    shape = static_shape(node.inputs[0])
    sizes = [] if shape is None else [size for size in shape[2:] if size]
    if shape is None or not sizes or len(sizes) != len(shape) - 2:
        return False
    pool = ir.node("MaxPool", node.inputs, {"kernel_shape": sizes}, name=node.name)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [pool], node.outputs, pool.outputs)
    return True
