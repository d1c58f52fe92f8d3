"""Remove Identity nodes, and Dropout, which is the identity at inference.

An Identity between a graph input and a graph output stays: the two names need it.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from qpipe.errors import ModelError
from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_input, describe, input_value


@dataclass(frozen=True, kw_only=True)
class RemoveIdentity(ir.passes.InPlacePass):
    """Identity(x) and inference Dropout(x) become x."""

    name: ClassVar[str] = "remove-identity"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove every match; raise ModelError on a Dropout that is exported in training mode."""
        dropouts = rewrite(model, {"Dropout"}, _try_make_identity)
        identities = common.IdentityEliminationPass()(model)
        return ir.passes.PassResult(model, dropouts.modified or identities.modified)


def _try_make_identity(graph: ir.Graph, node: ir.Node) -> bool:
    """Replace a Dropout that does nothing; one whose mask is used stays."""
    if input_value(node, 2) is not None:
        training_mode = constant_input(node, 2)
        if training_mode is None or training_mode.item():
            ratio = constant_input(node, 1)
            if ratio is None or ratio.item() != 0:
                raise ModelError(f"{describe(node)}: is in training mode, expected a model exported for inference")
    if any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:]):
        return False
    identity = ir.node("Identity", [node.inputs[0]], name=node.name)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [identity], node.outputs[:1], identity.outputs)
    return True
