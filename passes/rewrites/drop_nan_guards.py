"""Take out what replaces the NaN of a Softmax, where it can have none.

    Where(IsNaN(p), 0, p) = p        p a Softmax of finite numbers

PyTorch writes it behind attention for rows of which all is masked by -inf. No infinite number is left once masks are
finite (`passes/rewrites/finite_masks.py`); where one is, the guard stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import AnyArray, constant_array


@dataclass(frozen=True, kw_only=True)
class DropNanGuards(ir.passes.InPlacePass):
    """Every one of a graph without infinite constants."""

    name: ClassVar[str] = "drop-nan-guards"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Take out every match."""
        if not any(node.op_type == "IsNaN" for node in model.graph) or any(map(_is_infinite, _constants(model.graph))):
            return ir.passes.PassResult(model, False)
        return rewrite(model, {"Where"}, _try_drop)


def _constants(graph: ir.Graph) -> list[AnyArray]:
    values = [*graph.initializers.values(), *(v for n in graph if n.op_type == "Constant" for v in n.outputs)]
    return [array for value in values if value.uses() and (array := constant_array(value)) is not None]


def _is_infinite(array: AnyArray) -> bool:
    return array.dtype.kind == "f" and not np.isfinite(array).all()


def _try_drop(graph: ir.Graph, where: ir.Node) -> bool:
    condition, _, kept = where.inputs
    guard, softmax = (None if value is None else value.producer() for value in (condition, kept))
    if guard is None or softmax is None or (guard.op_type, softmax.op_type) != ("IsNaN", "Softmax"):
        return False
    if kept is None or guard.inputs[0] is not kept or where.outputs[0].is_graph_output():
        return False
    where.outputs[0].replace_all_uses_with(kept)
    graph.remove(where, safe=True)
    if not guard.outputs[0].uses() and not guard.outputs[0].is_graph_output():
        graph.remove(guard, safe=True)
    return True
