"""Write the length of vectors as sums of squares and a root, where it leads to weights: each has an integer form.

    ReduceL2(x)  =  Sqrt(ReduceSum(Pow(x, 2)))      ReduceSumSquare(x)  =  ReduceSum(Pow(x, 2))
    ReduceL1(x)  =  ReduceSum(Abs(x))

The length of few numbers has one of its own (`qpipe.ops.length`), and is ReduceL2 however it was written.

    Sqrt(ReduceSum(Pow(x, 2)))  =  ReduceL2(x)      Sqrt(Add(Pow(a, 2), Pow(b, 2)))  =  ReduceL2(a and b side by side)

What leads to outputs alone stays: there it is float, and as it was. Source: ONNX operator specification, ReduceL2-18.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.edges import leading_to_weights
from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import initializer, name_value

_NORMS: Final = frozenset({"ReduceL1", "ReduceL2", "ReduceSumSquare"})


@dataclass(frozen=True, kw_only=True)
class SpellNorms(ir.passes.InPlacePass):
    """Every ReduceL1, ReduceL2 and ReduceSumSquare of floats."""

    name: ClassVar[str] = "spell-norms"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        leading = leading_to_weights(model.graph)

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            return node.outputs[0] in leading and _try_replace(graph, node)

        return rewrite(model, _NORMS, attempt)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    x, result, name = node.inputs[0], node.outputs[0], str(node.name or node.outputs[0].name)
    if x is None or x.dtype not in {ir.DataType.FLOAT, None}:
        return False
    if node.op_type == "ReduceL1":
        each = ir.node("Abs", [x], name=f"{name}_magnitudes")
    else:
        two = initializer(graph, f"{name}_exponent", np.float32(2))
        each = ir.node("Pow", [x, two], name=f"{name}_squares")
    total = ir.node("ReduceSum", [each.outputs[0], *node.inputs[1:]], node.attributes, name=f"{name}_sum")
    new = [each, total]
    if node.op_type == "ReduceL2":
        new.append(ir.node("Sqrt", total.outputs, name=name))
    for step in new[:-1]:
        sizes = x.shape if step is each else result.shape
        name_value(step.outputs[0], f"{step.name}_result", ir.TensorType(ir.DataType.FLOAT), sizes)
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, [result], new[-1].outputs)
    return True
