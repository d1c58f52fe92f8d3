"""Give a Reshape whose shape is computed from its input's (torch's flatten and view) a constant one.

    Reshape(x, Concat(Shape(x)[0], 144)) = Reshape(x, [-1, 144])

One dimension of the result may be unknown, which is the batch: it follows from the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_input, initializer, input_value, static_shape


@dataclass(frozen=True, kw_only=True)
class ConstantReshape(ir.passes.InPlacePass):
    """Reshape with a computed shape gets a constant one, where at most one dimension of its output is unknown."""

    name: ClassVar[str] = "constant-reshape"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every match; what computed the shape is left to dead-code removal."""
        return rewrite(model, {"Reshape"}, _try_make_constant)


def _try_make_constant(graph: ir.Graph, node: ir.Node) -> bool:
    if input_value(node, 1) is None or constant_input(node, 1) is not None:
        return False
    shape = static_shape(node.outputs[0])
    if shape is None or shape.count(None) > 1 or 0 in shape:
        return False
    target = np.array([-1 if size is None else size for size in shape], np.int64)
    node.replace_input_with(1, initializer(graph, f"{node.outputs[0].name}_shape", target))
    return True
