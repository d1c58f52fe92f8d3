"""Undo what opset conversion does to a Softmax over the last axis.

Before opset 13, Softmax flattened its input at `axis`. Converters keep that as Flatten(axis) -> Softmax(-1) -> Reshape
to Shape(x). Where the axis is the last one, this equals Softmax(x, axis=-1), without the shape arithmetic.
Source: ONNX operator changelog, Softmax-11 and Softmax-13.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.ir.graph.rewrite import only_reader, rewrite
from qpipe.nodes import int_attribute, rank, static_shape


@dataclass(frozen=True, kw_only=True)
class RestoreSoftmax(ir.passes.InPlacePass):
    """Flatten -> Softmax -> Reshape becomes Softmax over the last axis, where the shapes before and after agree."""

    name: ClassVar[str] = "restore-softmax"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        return rewrite(model, {"Softmax", "LogSoftmax"}, _try_restore)


def _try_restore(graph: ir.Graph, softmax: ir.Node) -> bool:
    flat, reshape = softmax.inputs[0], only_reader(softmax.outputs[0])
    flatten = None if flat is None or only_reader(flat) is not softmax else flat.producer()
    if flatten is None or flatten.op_type != "Flatten" or reshape is None or reshape.op_type != "Reshape":
        return False
    x, x_rank = flatten.inputs[0], rank(flatten.inputs[0])
    if x is None or x_rank is None or reshape.inputs[0] is not softmax.outputs[0]:
        return False
    if int_attribute(flatten, "axis", 1) % x_rank != x_rank - 1 or int_attribute(softmax, "axis", -1) not in {-1, 1}:
        return False
    if not _restores_shape(x, reshape):
        return False
    restored = ir.node(softmax.op_type, [x], {"axis": -1}, name=softmax.name)
    old_nodes = [flatten, softmax, reshape]
    ir.convenience.replace_nodes_and_values(graph, reshape, old_nodes, [restored], reshape.outputs, restored.outputs)
    return True


def _restores_shape(x: ir.Value, reshape: ir.Node) -> bool:
    """Whether the Reshape goes back to the shape of x: by asking for it, or because both are known and equal."""
    shape = reshape.inputs[1]
    producer = shape.producer() if shape is not None else None
    if producer is not None and producer.op_type == "Shape" and producer.inputs[0] is x and not producer.attributes:
        return True
    # With one dynamic dimension the number of elements fixes it; with two, equal names could be coincidence.
    known = static_shape(x)
    return known is not None and known.count(None) <= 1 and x.shape == reshape.outputs[0].shape
