"""Write a MatMul by one constant matrix for each head as one layer: a Conv of kernel 1 with as many groups.

    MatMul(x [N, H, T, K], w [1, H, K, C])  =  Transpose(Reshape(Conv(Reshape(Transpose(x)) [N, H K, T])))

where Conv has H groups and the weights `[H C, K, 1]`. A weight of more than two axes has no integer form; a Conv's has,
each channel with a scale of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray
from qpipe.ir.graph.rewrite import Steps, rewrite
from qpipe.nodes import constant_input, input_value, static_shape


@dataclass(frozen=True, kw_only=True)
class MatricesToGroupedConv(ir.passes.InPlacePass):
    """MatMul of four axes by constants `[H, K, C]` or `[1, H, K, C]`, where H, T and K are fixed."""

    name: ClassVar[str] = "matrices-to-grouped-conv"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every match."""
        return rewrite(model, frozenset({"MatMul"}), _try_replace)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    x, shape, weight = input_value(node, 0), static_shape(node.inputs[0]), constant_input(node, 1)
    if x is None or shape is None or len(shape) != 4 or weight is None or weight.ndim not in (3, 4):
        return False
    H, T, K = shape[1:]
    if H is None or T is None or K is None or weight.shape[:-2] not in {(H,), (1, H)} or H == 1:
        return False
    if x.dtype not in {ir.DataType.FLOAT, None}:
        return False
    _replace(graph, node, x, (H, T, K), weight.reshape(H, K, -1))
    return True


def _replace(graph: ir.Graph, node: ir.Node, x: ir.Value, sizes: tuple[int, int, int], weight: AnyArray) -> None:
    (H, T, K), C, steps = sizes, weight.shape[-1], Steps(graph, node, x)
    batch = ir.SymbolicDim(None) if x.shape is None else x.shape.dims[0]
    steps.add("Transpose", "turned", [], [batch, H, K, T], perm=[0, 1, 3, 2])
    steps.add("Reshape", "channels", [np.array([0, H * K, T])], [batch, H * K, T])
    filters = np.ascontiguousarray(weight.transpose(0, 2, 1).reshape(H * C, K, 1))
    window = {"kernel_shape": [1], "pads": [0, 0], "strides": [1], "dilations": [1]}
    steps.add("Conv", "product", [filters], [batch, H * C, T], group=H, **window)
    steps.add("Reshape", "heads", [np.array([0, H, C, T])], [batch, H, C, T])
    steps.add("Transpose", "back", [], [batch, H, T, C], perm=[0, 1, 3, 2])
    steps.replace()
