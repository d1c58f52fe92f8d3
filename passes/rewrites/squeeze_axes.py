"""Say of a Squeeze without axes which ones it drops: those of one element.

An open batch is none of them: a network that dropped it where it happens to be 1 would give another shape for it alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.files.infer import infer_shapes
from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import initializer, input_value, static_shape


@dataclass(frozen=True, kw_only=True)
class SqueezeAxes(ir.passes.InPlacePass):
    """Every Squeeze without axes whose input has known sizes behind the first."""

    name: ClassVar[str] = "squeeze-axes"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Complete every match; what follows has known shapes then."""

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            if not _try_complete(graph, node):
                return False
            infer_shapes(model)
            return True

        return rewrite(model, {"Squeeze"}, attempt)


def _try_complete(graph: ir.Graph, node: ir.Node) -> bool:
    shape = static_shape(node.inputs[0])
    if input_value(node, 1) is not None or shape is None or None in shape[1:]:
        return False
    axes = np.array([axis for axis, size in enumerate(shape) if size == 1], np.int64)
    if not axes.size:
        # An empty list is read as no list: it would drop an open batch.
        identity = ir.node("Identity", node.inputs[:1], name=node.name)
        ir.convenience.replace_nodes_and_values(graph, node, [node], [identity], node.outputs, identity.outputs)
        return True
    value = initializer(graph, f"{node.name or node.outputs[0].name}_axes", axes)
    node.resize_inputs(2)
    node.replace_input_with(1, value)
    return True
