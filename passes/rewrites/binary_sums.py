"""Write a Sum, Mean, Max or Min of n tensors as operators of two.

    Sum(a, b, c)  =  Add(Add(a, b), c)                  Max and Min likewise, as onnxruntime adds: bit for bit
    Mean(a, b)    =  Mul(Add(a, b), 1 / 2)              the factor goes into the layers behind (`fold-affine-forward`)
    Sum(a)        =  a                                  Mean, Max and Min likewise

1 / n is rounded to float32 where n is no power of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.ir.files.infer import infer_shapes
from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import initializer

_BINARY: Final = {"Sum": "Add", "Mean": "Add", "Max": "Max", "Min": "Min"}


@dataclass(frozen=True, kw_only=True)
class BinarySums(ir.passes.InPlacePass):
    """Every Sum and Mean, and each Max and Min of other than two tensors."""

    name: ClassVar[str] = "binary-sums"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match, and infer the shapes of what comes between."""
        result = rewrite(model, _BINARY.keys(), _try_replace)
        if result.modified:
            infer_shapes(model)
        return result


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    if (node.op_type in {"Max", "Min"} and len(node.inputs) == 2) or None in node.inputs:
        return False
    name = node.name or str(node.outputs[0].name)
    value, new = node.inputs[0], list[ir.Node]()
    for other in node.inputs[1:]:
        new.append(ir.node(_BINARY[node.op_type], [value, other], name=f"{name}_{len(new)}"))
        value = new[-1].outputs[0]
    if node.op_type == "Mean" and new:
        factor = initializer(graph, f"{name}_factor", np.float32(1 / len(node.inputs)))
        new.append(ir.node("Mul", [value, factor], name=name))
    if not new:
        new.append(ir.node("Identity", [value], name=name))
    new[-1].name = node.name
    for step in new[:-1]:
        step.outputs[0].name, step.outputs[0].type = f"{step.name}_result", node.outputs[0].type
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, node.outputs, new[-1].outputs)
    return True
