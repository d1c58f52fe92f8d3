"""Write a mean over all spatial positions in the form that onnxruntime computes exactly.

AveragePool whose window is the whole image is GlobalAveragePool. onnxruntime fuses that with its quantizers and then
multiplies by float32(1 / N), which errs at exact ties for some counts N (see `qpipe.ops.average_pool`). For these it
becomes ReduceMean over the same axes, which is not fused and divides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.arith.certificate import reciprocal_is_exact
from qpipe.nodes import initializer, static_shape, window


@dataclass(frozen=True, kw_only=True)
class ExactAveragePool(ir.passes.InPlacePass):
    """AveragePool and GlobalAveragePool over everything; an unknown size becomes ReduceMean, which is always exact."""

    name: ClassVar[str] = "exact-average-pool"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every match."""
        modified = False
        for node in list(model.graph):
            if node.domain != "" or not (node.op_type == "GlobalAveragePool" or _is_global(node)):
                continue
            shape = static_shape(node.inputs[0]) if node.inputs[0] is not None else None
            spatial = () if shape is None else shape[2:]
            known = [size for size in spatial if size is not None]
            exact = bool(known) and len(known) == len(spatial) and reciprocal_is_exact(math.prod(known))
            if exact and node.op_type == "GlobalAveragePool":
                continue
            dims = 4 if shape is None else len(shape)
            _replace(model.graph, node, "GlobalAveragePool" if exact else "ReduceMean", dims)
            modified = True
        return ir.passes.PassResult(model, modified)


def _is_global(node: ir.Node) -> bool:
    """Whether it is an AveragePool whose one window is the image."""
    shape = static_shape(node.inputs[0]) if node.op_type == "AveragePool" and node.inputs[0] is not None else None
    if shape is None:
        return False
    found = window(node)
    return found.kernel == shape[2:] and not any(found.pads) and all(d == 1 for d in found.dilations)


def _replace(graph: ir.Graph, node: ir.Node, op_type: str, dims: int) -> None:
    inputs = [node.inputs[0]]
    if op_type == "ReduceMean":
        inputs.append(initializer(graph, f"{node.name}_axes", np.arange(2, dims)))
    new = ir.node(op_type, inputs, name=node.name)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], node.outputs, new.outputs)
