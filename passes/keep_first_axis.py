"""Leave the first axis out of a reduction where it has one element: what counts images is reduced by nothing else.

    Reduce(x [1, ...], axes 0, a, b, ...)   =  Reduce(x, axes a, b, ...)        bit for bit

Without `keepdims` the result has an axis less. One number is read by sums and products as it is by itself, so that it
may keep all axes where nothing else reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_input, initializer, input_value, int_attribute, rank, static_shape

_REDUCTIONS: Final = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"})
_BROADCASTS: Final = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min"})


@dataclass(frozen=True, kw_only=True)
class KeepFirstAxis(ir.passes.InPlacePass):
    """Each reduction of a batch that is fixed to 1, of that axis and others."""

    name: ClassVar[str] = "keep-first-axis"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change every match."""
        return rewrite(model, _REDUCTIONS, _try_change)


def _try_change(graph: ir.Graph, node: ir.Node) -> bool:
    shape, given, result = static_shape(node.inputs[0]), constant_input(node, 1), node.outputs[0]
    if shape is None or len(shape) < 2 or shape[0] != 1 or (given is None and input_value(node, 1) is not None):
        return False
    if given is None or not given.size:
        if int_attribute(node, "noop_with_empty_axes", 0):
            return False
        given = np.arange(len(shape))
    axes = sorted({int(axis) % len(shape) for axis in given.reshape(-1)})
    keeps, is_all = bool(int_attribute(node, "keepdims", 1)), len(axes) == len(shape)
    if axes[0] != 0 or len(axes) < 2 or not (keeps or (is_all and _only_broadcasts(result, len(shape)))):
        return False
    others = initializer(graph, f"{result.name}_axes", np.array(axes[1:], np.int64))
    if len(node.inputs) < 2:
        node.resize_inputs(2)
    node.replace_input_with(1, others)
    if not keeps:
        node.attributes["keepdims"] = ir.AttrInt64("keepdims", 1)
        result.shape = ir.Shape([1] * len(shape))
    return True


def _only_broadcasts(value: ir.Value, dims: int) -> bool:
    """Whether all that reads one number matches it with what has so many axes."""
    if value.is_graph_output():
        return False
    readers = [node for node, _ in value.uses()]
    return all(
        node.op_type in _BROADCASTS
        and node.domain == ""
        and any(rank(v) == dims for v in node.inputs if v is not value)
        for node in readers
    )
