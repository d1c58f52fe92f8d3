"""Undo what opset conversion does to a Softmax over the last axis.

Before opset 13, Softmax flattened its input at `axis`. Converters keep that as Flatten(axis) -> Softmax(-1) -> Reshape
to Shape(x). Where the axis is the last one, this equals Softmax(x, axis=-1), without the shape arithmetic.
Source: ONNX operator changelog, Softmax-11 and Softmax-13.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.nodes import int_attribute, rank

_OPS = frozenset({"Softmax", "LogSoftmax"})


@dataclass(frozen=True, kw_only=True)
class RestoreSoftmax(ir.passes.InPlacePass):
    """Flatten -> Softmax -> Reshape becomes Softmax over the last axis, where the shapes before and after agree."""

    name: ClassVar[str] = "restore-softmax"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        modified = False
        for node in list(model.graph):
            if node.op_type in _OPS and node.domain == "" and node.graph is model.graph:
                modified |= _try_restore(model.graph, node)
        return ir.passes.PassResult(model, modified)


def _try_restore(graph: ir.Graph, softmax: ir.Node) -> bool:
    flat = softmax.inputs[0]
    flatten = flat.producer() if flat is not None else None
    consumers = softmax.outputs[0].consumers()
    if flat is None or flatten is None or flatten.op_type != "Flatten" or len(flat.uses()) != 1:
        return False
    if len(consumers) != 1 or consumers[0].op_type != "Reshape" or softmax.outputs[0].is_graph_output():
        return False
    x, reshape = flatten.inputs[0], consumers[0]
    x_rank = rank(x)
    if x is None or x_rank is None or reshape.inputs[0] is not softmax.outputs[0]:
        return False
    over_last = int_attribute(flatten, "axis", 1) % x_rank == x_rank - 1 and int_attribute(softmax, "axis", -1) in (
        -1,
        1,
    )
    if not over_last or flat.is_graph_output() or not _restores_shape(x, reshape):
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
    return x.shape is not None and x.shape == reshape.outputs[0].shape and _at_most_one_unknown(x.shape)


def _at_most_one_unknown(shape: ir.Shape) -> bool:
    """With one dynamic dimension the number of elements fixes it; with two, equal names could be coincidence."""
    return sum(not isinstance(dim, int) for dim in shape) <= 1
