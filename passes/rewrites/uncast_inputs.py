"""Take out the Cast of an input of integers to float32: the network computes in one type from its input on.

    Cast(x: uint8 -> float32)  =  x: float32                                        of the same numbers, bit for bit

Integers beyond 2**24 would be rounded by the Cast; who feeds floats has rounded them so. The mask of an attention stays
one of integers, whose codes are looked up (see `qpipe.ops.lookup`): a grid of real numbers may not hold its 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import int_attribute
from qpipe.ops.masks import lowers_softmax


@dataclass(frozen=True, kw_only=True)
class UncastInputs(ir.passes.InPlacePass):
    """Inputs of an integer type, but masks, that nothing but a Cast to float32 reads; they become float32."""

    name: ClassVar[str] = "uncast-inputs"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change every match."""
        return rewrite(model, {"Cast"}, _try_take_out)


def _try_take_out(graph: ir.Graph, cast: ir.Node) -> bool:
    value, result = cast.inputs[0], cast.outputs[0]
    if value is None or not value.is_graph_input() or value.graph is not graph or value.dtype is None:
        return False
    is_only = [use.node for use in value.uses()] == [cast] and not value.is_graph_output()
    to_float = int_attribute(cast, "to", ir.DataType.UNDEFINED) == ir.DataType.FLOAT
    if not (value.dtype.is_integer() and is_only and to_float) or result.is_graph_output() or lowers_softmax(result):
        return False
    value.type = ir.TensorType(ir.DataType.FLOAT)
    result.replace_all_uses_with(value)
    graph.remove(cast, safe=True)
    return True
