"""Write the normalization of each image's channels, or groups of them, as one of rows: that has an integer form.

    InstanceNormalization(x [N, C, H, W], s, b)  =  s Reshape(LayerNormalization(Reshape(x) [N, C, H W])) + b
    GroupNormalization(x, s, b) of G groups      =  s Reshape(LayerNormalization(Reshape(x) [N, G, C/G H W])) + b

Rows that are longer than the integer form takes stay as they are, and so does what leads to outputs alone, which is
float. Sources: Ulyanov et al. 2016, *Instance
Normalization*; Wu and He 2018, *Group Normalization*; ONNX operator specification, GroupNormalization-21.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.layer_norm import LONGEST_ROW
from qpipe.ir.graph.edges import leading_to_weights
from qpipe.ir.graph.rewrite import Steps, rewrite
from qpipe.nodes import AnyArray, constant_input, float_attribute, input_value, int_attribute, static_shape

_GROUPS: Final = "GroupNormalization"


@dataclass(frozen=True, kw_only=True)
class InstanceNormToLayerNorm(ir.passes.InPlacePass):
    """InstanceNormalization and GroupNormalization of constant scales and bias, of images whose size is fixed."""

    name: ClassVar[str] = "instance-norm-to-layer-norm"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        leading = leading_to_weights(model.graph)

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            return node.outputs[0] in leading and _try_replace(graph, node)

        return rewrite(model, frozenset({"InstanceNormalization", _GROUPS}), attempt)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    x, shape = input_value(node, 0), static_shape(node.inputs[0])
    scale, bias = constant_input(node, 1), constant_input(node, 2)
    if x is None or x.shape is None or shape is None or x.dtype not in {ir.DataType.FLOAT, None}:
        return False
    if scale is None or bias is None:
        return False
    sizes = [size for size in shape[1:] if size]
    if len(sizes) < 2 or len(sizes) < len(shape) - 1 or {scale.shape, bias.shape} != {(sizes[0],)}:
        return False
    channels = sizes[0]
    rows = int_attribute(node, "num_groups", 0) if node.op_type == _GROUPS else channels
    if rows < 1 or channels % rows or math.prod(sizes) // rows > LONGEST_ROW:
        return False
    _write(Steps(graph, node, x), node, x.shape.dims[0], sizes, rows, scale, bias)
    return True


def _write(
    steps: Steps,
    node: ir.Node,
    batch: int | ir.SymbolicDim,
    inner: list[int],
    rows: int,
    scale: AnyArray,
    bias: AnyArray,
) -> None:
    dims, length = [batch, *inner], math.prod(inner) // rows
    ones, zeros = np.ones(length, np.float32), np.zeros(length, np.float32)
    if inner != [rows, length]:
        # A zero keeps the batch as it is.
        steps.add("Reshape", "rows", [np.array([0, rows, length])], [batch, rows, length])
    epsilon = float_attribute(node, "epsilon", 1e-5)
    steps.add("LayerNormalization", "norm", [ones, zeros], [batch, rows, length], axis=-1, epsilon=epsilon)
    if inner != [rows, length]:
        steps.add("Reshape", "back", [np.array([0, *inner])], dims)
    each = [-1, *[1] * (len(inner) - 1)]
    if (scale != 1).any():
        steps.add("Mul", "scale", [scale.reshape(each)], dims)
    if bias.any():
        steps.add("Add", "bias", [bias.reshape(each)], dims)
    steps.replace()
