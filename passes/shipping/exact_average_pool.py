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
from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import Window, initializer, static_shape, window


@dataclass(frozen=True, kw_only=True)
class ExactAveragePool(ir.passes.InPlacePass):
    """AveragePool and GlobalAveragePool over everything; an unknown size becomes ReduceMean, which is always exact."""

    name: ClassVar[str] = "exact-average-pool"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every match."""
        return rewrite(model, {"AveragePool", "GlobalAveragePool"}, _try_replace)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    x = node.inputs[0]
    shape = static_shape(x)
    is_global = node.op_type == "GlobalAveragePool"
    if not is_global and (shape is None or not _covers(window(node), shape[2:])):
        return False
    spatial = () if shape is None else shape[2:]
    known = [size for size in spatial if size is not None]
    is_exact = 0 < len(known) == len(spatial) and reciprocal_is_exact(math.prod(known))
    if is_exact and is_global:
        return False
    if is_exact:
        new = ir.node("GlobalAveragePool", [x], name=node.name)
    else:
        axes = np.arange(2, 4 if shape is None else len(shape))
        new = ir.node("ReduceMean", [x, initializer(graph, f"{node.name}_axes", axes)], name=node.name)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], node.outputs, new.outputs)
    return True


def _covers(found: Window, sizes: tuple[int | None, ...]) -> bool:
    """Whether the one window is an image of these sizes."""
    return found.kernel == sizes and not any(found.pads) and all(d == 1 for d in found.dilations)
