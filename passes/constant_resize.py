"""Give a Resize whose sizes are computed from its input's (TensorFlow's, with an open batch) constant ones.

    Resize(x, sizes = Concat(Shape(x)[:2], [32, 32]))  =  Resize<axes = [1, 2, 3]>(x, sizes = [C, 32, 32])

The batch stays as it is: no network resizes it by what it computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_input, initializer, input_value, static_shape


@dataclass(frozen=True, kw_only=True)
class ConstantResize(ir.passes.InPlacePass):
    """Resize with computed sizes gets constant ones, where inference knows all of its output's but the batch."""

    name: ClassVar[str] = "constant-resize"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every match; what computed the sizes is left to dead-code removal."""
        return rewrite(model, {"Resize"}, _try_make_constant)


def _try_make_constant(graph: ir.Graph, node: ir.Node) -> bool:
    if input_value(node, 3) is None or constant_input(node, 3) is not None or "axes" in node.attributes:
        return False
    shape = static_shape(node.outputs[0])
    if shape is None or len(shape) < 2 or None in shape[1:]:
        return False
    sizes = initializer(graph, f"{node.outputs[0].name}_sizes", np.array(shape[1:], np.int64))
    node.replace_input_with(3, sizes)
    node.attributes["axes"] = ir.AttrInt64s("axes", range(1, len(shape)))
    return True
