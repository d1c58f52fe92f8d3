"""Remove what no output depends on: nodes, optional outputs, initializers, functions, opset imports."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from qpipe.ir.graph.ending import remove_unused


@dataclass(frozen=True, kw_only=True)
class RemoveDeadCode(ir.passes.InPlacePass):
    """The graph's inputs and outputs stay, all else that is unused goes."""

    name: ClassVar[str] = "remove-dead-code"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove until nothing unused is left."""
        before = _size(model)
        remove_unused(model)
        common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass()(model)
        # onnx_ir doesn't report the inputs, outputs and attributes that it drops from nodes that stay.
        return ir.passes.PassResult(model, _size(model) != before)


def _size(model: ir.Model) -> tuple[int, ...]:
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    return (
        len(nodes),
        sum(len(node.inputs) for node in nodes),
        sum(1 for node in nodes for output in node.outputs if output.name),
        sum(len(node.attributes) for node in nodes),
        sum(len(graph.initializers) for graph in model.graphs()),
        len(model.functions),
        len(model.opset_imports),
    )
