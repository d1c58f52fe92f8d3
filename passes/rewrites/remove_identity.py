"""Remove Identity nodes, Dropout, which is the identity at inference, and a Where that always takes one operand.

An Identity stays where two names need it: between an input or a constant and an output, between two outputs, and as the
result of a branch (If, Loop) whose value comes from outside of it.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.errors import ModelError
from qpipe.ir.graph.rewrite import bypass, rewrite
from qpipe.nodes import constant_input, describe, input_value


@dataclass(frozen=True, kw_only=True)
class RemoveIdentity(ir.passes.InPlacePass):
    """Identity(x), inference Dropout(x) and Where(True, x, y) become x, in branches too."""

    name: ClassVar[str] = "remove-identity"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove every match; raise ModelError on a Dropout that is exported in training mode."""
        dropouts = rewrite(model, {"Dropout"}, _try_make_identity)
        choices = rewrite(model, {"Where"}, _try_choose)
        nodes = [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if node.op_type == "Identity"]
        identities = [_try_remove(node) for node in nodes]
        return ir.passes.PassResult(model, dropouts.modified or choices.modified or any(identities))


def _try_make_identity(graph: ir.Graph, node: ir.Node) -> bool:
    """Replace a Dropout that does nothing; one whose mask is used stays."""
    if input_value(node, 2) is not None:
        training_mode = constant_input(node, 2)
        if training_mode is None or training_mode.any():
            ratio = constant_input(node, 1)
            if ratio is None or ratio.any():
                raise ModelError(f"{describe(node)}: is in training mode, expected a model exported for inference")
    if any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:]):
        return False
    identity = ir.node("Identity", [node.inputs[0]], name=node.name)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [identity], node.outputs[:1], identity.outputs)
    return True


def _try_choose(graph: ir.Graph, node: ir.Node) -> bool:
    """Replace a Where whose condition is constant and everywhere the same, if what it takes has the result's shape."""
    condition = constant_input(node, 0)
    if condition is None or not condition.size or condition.any() != condition.all():
        return False
    taken = node.inputs[1 if condition.all() else 2]
    if taken is None or taken.shape is None or taken.shape != node.outputs[0].shape or None in taken.shape.dims:
        return False
    identity = ir.node("Identity", [taken], name=node.name)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [identity], node.outputs, identity.outputs)
    return True


def _try_remove(node: ir.Node) -> bool:
    value, graph = input_value(node, 0), node.graph
    if node.domain != "" or value is None or graph is None:
        return False
    if node.outputs[0].is_graph_output():
        producer = value.producer()
        if producer is None or producer.graph is not graph or value.is_graph_output():
            return False
    bypass(node, value)
    return True
