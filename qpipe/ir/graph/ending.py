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
    remove_unused(model)


def remove_unused(model: ir.Model) -> None:
    """Take out, in place, the nodes and initializers that no output needs.

    A node that is taken out reads nothing any more, but what its branches and loop bodies read from outside counts as
    read in onnx_ir: what gave them these values would stay, and ask for inputs that may be gone.
    """
    _forget_branches(model.graph)
    ir.passes.common.RemoveUnusedNodesPass()(model)
    while _forget_branches(model.graph):
        ir.passes.common.RemoveUnusedNodesPass()(model)


def _forget_branches(graph: ir.Graph) -> bool:
    """Let branches and bodies of nodes that have left the graph read nothing of it; whether there were any."""
    graphs = {graph, *graph.subgraphs()}
    given = [value for each in graphs for value in (*each.inputs, *each.initializers.values())]
    given += [value for each in graphs for node in each for value in node.outputs]
    # A node of no graph may be one that is still to be put in.
    known = {None, *graphs}
    gone = [use for value in given for use in value.uses() if use.node.graph not in known]
    for node, index in gone:
        node.replace_input_with(index, None)
    return bool(gone)


def between(model: ir.Model, begin: str, end: str) -> ir.Model:
    """A copy that reads the value named `begin`, of any number of samples, and gives that named `end`."""
    copy = model.clone()
    values = {value.name: value for node in copy.graph for value in node.outputs}
    values |= {value.name: value for value in copy.graph.inputs}
    source, target = values[begin], values[end]
    dims = [] if source.shape is None else [None, *source.shape.dims[1:]]
    shape = ir.Shape(dims) if dims else None
    given = ir.Value(name=f"{begin}_given", type=source.type or ir.TensorType(ir.DataType.FLOAT), shape=shape)
    source.replace_all_uses_with(given)
    copy.graph.inputs.clear()
    copy.graph.inputs.append(given)
    end_in(copy, [target])
    return copy
