"""Write a LayerNormalization of several axes as one of the last axis, which has an integer form.

    LayerNormalization<axis=1>(x [N, C, T], g [C, T], b)  =  Reshape(LayerNormalization(Reshape(x) [N, C T], g, b))

Rows that are longer than the integer form takes stay as they are. Source: ONNX operator specification,
LayerNormalization-17.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.arith.layer_norm import LONGEST_ROW
from qpipe.ir.graph.edges import leading_to_weights
from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import (
    constant_input,
    float_attribute,
    initializer,
    input_value,
    int_attribute,
    name_value,
    static_shape,
)


@dataclass(frozen=True, kw_only=True)
class LayerNormLastAxis(ir.passes.InPlacePass):
    """LayerNormalization of two fixed axes or more, with constants, where it leads to weights."""

    name: ClassVar[str] = "layer-norm-last-axis"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        leading = leading_to_weights(model.graph)

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            return node.outputs[0] in leading and _try_replace(graph, node)

        return rewrite(model, frozenset({"LayerNormalization"}), attempt)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    x, shape, result = input_value(node, 0), static_shape(node.inputs[0]), node.outputs[0]
    if x is None or x.shape is None or shape is None or any(value.uses() for value in node.outputs[1:]):
        return False
    axis = int_attribute(node, "axis", -1) % len(shape)
    inner = [size for size in shape[axis:] if size]
    arrays = [None if value is None else constant_input(node, 1 + i) for i, value in enumerate(node.inputs[1:])]
    if (
        len(inner) < 2
        or math.prod(inner) > LONGEST_ROW
        or len(inner) < len(shape) - axis
        or not arrays
        or any(array is None for array in arrays)
    ):
        return False
    length, name = math.prod(inner), node.name or str(result.name)
    kind, outer = ir.TensorType(ir.DataType.FLOAT), x.shape.dims[:axis]
    flat = [
        initializer(graph, f"{name}_flat_{i}", np.broadcast_to(array, inner).reshape(length).copy())
        for i, array in enumerate(arrays)
        if array is not None
    ]
    # A zero keeps a size as it is.
    targets = [
        initializer(graph, f"{name}_{what}", np.array([*[0] * axis, *sizes], np.int64))
        for what, sizes in (("rows", [length]), ("sizes", inner))
    ]
    before = ir.node("Reshape", [x, targets[0]], name=f"{name}_before")
    attributes = {"axis": -1, "epsilon": float_attribute(node, "epsilon", 1e-5)}
    norm = ir.node("LayerNormalization", [before.outputs[0], *flat], attributes, name=name)
    behind = ir.node("Reshape", [norm.outputs[0], targets[1]], name=f"{name}_behind")
    for step in (before, norm):
        name_value(step.outputs[0], f"{step.name}_flat_result", kind, ir.Shape([*outer, length]))
    ir.convenience.replace_nodes_and_values(graph, node, [node], [before, norm, behind], [result], behind.outputs)
    return True
