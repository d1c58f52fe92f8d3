"""Add the mask that a Where puts into the scores of an attention: a sum has integers, and so has the mask.

    Softmax(Where(m, x, low))  =  Softmax(x + Where(m, 0, low))        low of -2^13 and less

to the last bit, as long as x is less than 2^12 in magnitude: what is so far below its row's maximum has no weight in
float32 either way. (A row of which all is masked has no such maximum; what it gives means nothing.) The mask hangs on
integers and truth values alone, or is a constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_array, initializer, name_value, rank
from qpipe.ops.masks import leads_to_softmax

_BELOW: Final = -(2.0**13)


@dataclass(frozen=True, kw_only=True)
class MasksToSums(ir.passes.InPlacePass):
    """Every Where of scores and one number far below them of which nothing but a Softmax is a function."""

    name: ClassVar[str] = "masks-to-sums"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change every match."""
        return rewrite(model, {"Where"}, _try_add)


def _try_add(graph: ir.Graph, where: ir.Node) -> bool:
    condition, *choices = where.inputs
    result = where.outputs[0]
    arrays = [constant_array(value) for value in choices]
    masked = [i for i, array in enumerate(arrays) if array is not None]
    if condition is None or len(masked) != 1 or not leads_to_softmax(result):
        return False
    low, scores = arrays[masked[0]], choices[1 - masked[0]]
    dims = rank(scores)
    if low is None or low.size != 1 or low.dtype != np.float32 or float(low.reshape(-1)[0]) > _BELOW or not dims:
        return False
    if scores is None or (rank(condition) or dims + 1) > dims or low.ndim > dims:
        return False
    base = str(result.name)
    nodes = []
    if (missing := dims - (rank(condition) or 0)) and constant_array(condition) is None:
        # A sum of two that are computed has as many axes in both.
        axes = initializer(graph, f"{base}_axes", np.arange(missing))
        nodes.append(ir.node("Unsqueeze", [condition, axes], name=f"{base}_unsqueeze"))
        name_value(nodes[-1].outputs[0], f"{base}_condition", ir.TensorType(ir.DataType.BOOL), None)
        condition = nodes[-1].outputs[0]
    numbers = [np.float32(0), np.float32(0)]
    numbers[masked[0]] = np.float32(low.reshape(-1)[0])
    both = [initializer(graph, f"{base}_number{i}", number) for i, number in enumerate(numbers)]
    nodes.append(ir.node("Where", [condition, *both], name=f"{base}_mask"))
    name_value(nodes[-1].outputs[0], f"{base}_masked", ir.TensorType(ir.DataType.FLOAT), condition.shape)
    nodes.append(ir.node("Add", [scores, nodes[-1].outputs[0]], name=where.name))
    name_value(nodes[-1].outputs[0], f"{base}_sum", ir.TensorType(ir.DataType.FLOAT), result.shape)
    graph.insert_before(where, nodes)
    result.replace_all_uses_with(nodes[-1].outputs[0])
    graph.remove(where, safe=True)
    return True
