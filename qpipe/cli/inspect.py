"""`qpipe inspect`: what a model is made of, and what will become of each node."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from qpipe.cli.options import JsonOption, ModelArgument, expand_settings
from qpipe.cli.output import cell, emit, print_line, print_table, working
from qpipe.plain import to_plain
from qpipe.settings import TorchSettings

_NODE_COLUMNS = ("name", "op", "role", "advice")


@expand_settings
def inspect(model: ModelArgument, source: TorchSettings, json: JsonOption = False) -> None:
    """Show what a model is made of, and what becomes of each node.

    Nodes that have no integer form are listed all at once, each with what to do.

    \b
    Example:
      qpipe inspect resnet20.onnx
    """
    import qpipe

    with working():
        report = to_plain(qpipe.inspect(model, **source.arguments()))
    assert isinstance(report, dict)
    emit(json, report, lambda: _show(model, report))


def _show(model: str, report: Mapping[str, JsonValue]) -> None:
    """Facts first, then ops, then the nodes."""
    facts = {key: value for key, value in report.items() if key not in ("ops", "nodes")}
    print_line(model)
    for key, value in facts.items():
        print_line(f"  {key}: {cell(value)}")
    ops = report.get("ops")
    if isinstance(ops, dict):
        print_table("ops", [{"op": op, "nodes": count} for op, count in ops.items()])
    nodes = report.get("nodes")
    print_table("nodes", [_node_row(node) for node in nodes] if isinstance(nodes, list) else [])


def _node_row(node: JsonValue) -> dict[str, JsonValue]:
    if isinstance(node, dict):
        return node
    assert isinstance(node, Sequence)
    return dict(zip(_NODE_COLUMNS, node, strict=False))
