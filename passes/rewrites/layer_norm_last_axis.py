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
from qpipe.ir.graph.rewrite import Steps, rewrite
from qpipe.nodes import constant_input, float_attribute, input_value, int_attribute, static_shape


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
    x, shape = input_value(node, 0), static_shape(node.inputs[0])
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
    length, outer, steps = math.prod(inner), x.shape.dims[:axis], Steps(graph, node, x)
    flat = [np.broadcast_to(array, inner).reshape(length).copy() for array in arrays if array is not None]
    # A zero keeps a size as it is.
    steps.add("Reshape", "before", [np.array([*[0] * axis, length])], [*outer, length])
    epsilon = float_attribute(node, "epsilon", 1e-5)
    steps.add("LayerNormalization", "", flat, [*outer, length], axis=-1, epsilon=epsilon)
    steps.add("Reshape", "behind", [np.array([*[0] * axis, *inner])], [*outer, *inner])
    steps.replace()
    return True
