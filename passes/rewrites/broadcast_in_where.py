"""Let a Where repeat by itself what is only repeated for it.

    Where(c, x, ConstantOfShape(Shape(x)) of v)  =  Where(c, x, v)
    Where(Expand(m, Shape(x)), x, y)             =  Where(m, x, y)

`torch.zeros_like` and `expand_as` on a batch that is open are written so. What computes their shapes is no island then,
and a mask is made of integers and truth values alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import initializer


@dataclass(frozen=True, kw_only=True)
class BroadcastInWhere(ir.passes.InPlacePass):
    """Every such operand of a Where of which another one is what it is repeated for, or has the result's shape."""

    name: ClassVar[str] = "broadcast-in-where"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change every match."""
        return rewrite(model, {"Where"}, _try_change)


def _try_change(graph: ir.Graph, where: ir.Node) -> bool:
    changed = False
    for index, value in enumerate(where.inputs):
        others = [other for at, other in enumerate(where.inputs) if at != index]
        node = None if value is None else value.producer()
        if node is None or node.domain != "":
            continue
        if not any(_says_shape(other, where.outputs[0]) or _is_shape_of(other, node) for other in others):
            continue
        if node.op_type == "Expand":
            where.replace_input_with(index, node.inputs[0])
        elif node.op_type == "ConstantOfShape":
            said = node.attributes.get("value")
            number = np.zeros((), np.float32) if said is None else said.as_tensor().numpy().reshape(())
            name = f"{where.name or where.outputs[0].name}_number{index}"
            where.replace_input_with(index, initializer(graph, name, number))
        else:
            continue
        changed = True
    return changed


def _is_shape_of(value: ir.Value | None, node: ir.Node) -> bool:
    """Whether the last input of the node is the value's shape, all of it."""
    shape = None if node.inputs[-1] is None else node.inputs[-1].producer()
    return shape is not None and shape.op_type == "Shape" and not shape.attributes and shape.inputs[0] is value


def _says_shape(value: ir.Value | None, result: ir.Value) -> bool:
    """Whether a value has the shape of another; sizes of no name may be any."""
    if value is None or value.shape is None or value.shape != result.shape:
        return False
    return not any(isinstance(size, ir.SymbolicDim) and size.value is None for size in value.shape)
