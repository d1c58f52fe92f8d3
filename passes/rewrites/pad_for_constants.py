"""Join a constant to an activation by a Pad and an Add: both have grids of their own.

    Concat(c, x)  =  Pad(x, zeros in c's place) + [c, 0]                along any axis but the first, bit for bit

c is one row for all of the batch, as a class token is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray
from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_array, initializer, int_attribute, name_value, static_shape


@dataclass(frozen=True, kw_only=True)
class PadForConstants(ir.passes.InPlacePass):
    """Every Concat of constants of one row and of activations, all of known sizes behind the batch."""

    name: ClassVar[str] = "pad-for-constants"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            arrays = {i: constant_array(value) for i, value in enumerate(node.inputs)}
            return pad_for(graph, node, {i: array for i, array in arrays.items() if array is not None})

        return rewrite(model, {"Concat"}, attempt)


def pad_for(graph: ir.Graph, node: ir.Node, constants: Mapping[int, AnyArray]) -> bool:
    """Replace a Concat of which these operands are constants `[1, ...]`, one row for all; whether it could be."""
    result, shapes = node.outputs[0], {i: static_shape(v) for i, v in enumerate(node.inputs) if i not in constants}
    rank = next((len(shape) for shape in shapes.values() if shape is not None), None)
    if not constants or rank is None or result.dtype not in {ir.DataType.FLOAT, None}:
        return False
    axis = int_attribute(node, "axis", 0) % rank
    if axis == 0 or any(shape is None or None in shape[1:] for shape in shapes.values()):
        return False
    if any(array.ndim != rank or len(array) != 1 or array.dtype != np.float32 for array in constants.values()):
        return False
    name = node.name or str(result.name)
    padded, pieces, new = _padded(graph, node, constants, axis, rank, name)
    offset = initializer(graph, f"{name}_constants", np.concatenate(pieces, axis))
    if len(padded) > 1:
        new.append(ir.node("Concat", padded, {"axis": axis}, name=f"{name}_joined"))
    new.append(ir.node("Add", [new[-1].outputs[0], offset], name=name))
    for step in new[:-1]:
        if step.outputs[0].name is None:
            name_value(step.outputs[0], f"{step.name}_result", ir.TensorType(ir.DataType.FLOAT), result.shape)
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, [result], new[-1].outputs)
    return True


def _padded(
    graph: ir.Graph, node: ir.Node, constants: Mapping[int, AnyArray], axis: int, rank: int, name: str
) -> tuple[list[ir.Value | None], list[AnyArray], list[ir.Node]]:
    """The activations with zeros in the place of constants beside them; what is to be added; and the Pads."""
    pieces: list[AnyArray] = []
    around: dict[int, list[int]] = {}
    waiting, last = 0, None
    for i, value in enumerate(node.inputs):
        if i in constants:
            pieces.append(constants[i])
            length = constants[i].shape[axis]
            if last is None:
                waiting += length
            else:
                around[last][1] += length
            continue
        sizes = static_shape(value) or ()
        pieces.append(np.zeros((1, *(size or 0 for size in sizes[1:])), np.float32))
        around[i], last, waiting = [waiting, 0], i, 0
    padded: list[ir.Value | None] = []
    new: list[ir.Node] = []
    for i, (before, behind) in around.items():
        value = node.inputs[i]
        if before or behind:
            pads = np.zeros(2 * rank, np.int64)
            pads[[axis, rank + axis]] = before, behind
            pad = ir.node("Pad", [value, initializer(graph, f"{name}_{i}_pads", pads)], name=f"{name}_{i}_pad")
            dims = [*(value.shape if value is not None and value.shape is not None else ir.Shape([])).dims]
            dims[axis] = before + pieces[i].shape[axis] + behind
            name_value(pad.outputs[0], f"{name}_{i}_padded", ir.TensorType(ir.DataType.FLOAT), ir.Shape(dims))
            new.append(pad)
            value = pad.outputs[0]
        padded.append(value)
    return padded, pieces, new
