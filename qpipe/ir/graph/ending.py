"""The part of a graph that computes some of its values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from qpipe.errors import ModelError


def ending_in(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy whose outputs are the values of these names, in this order; ModelError where no node gives one of them."""
    copy = model.clone()
    values = {value.name: value for node in copy.graph for value in node.outputs}
    missing = [name for name in names if name not in values]
    if missing:
        raise ModelError(f"model '{model.graph.name}': no node gives '{missing[0]}', expected it as an output")
    end_in(copy, (values[name] for name in names))
    return copy


def end_in(model: ir.Model, outputs: Iterable[ir.Value]) -> None:
    """Make these values the outputs, in place, and take out what only others need; one of unknown type is float."""
    graph = model.graph
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    for value in graph.outputs:
        value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
    ir.passes.common.RemoveUnusedNodesPass()(model)
