"""`qpipe inspect`: what a model is made of, and what will become of each node."""

from collections.abc import Mapping
from typing import Any

from qpipe.cli.options import JsonOption, ModelArgument, expand_settings
from qpipe.cli.output import cell, emit, print_table, say, working
from qpipe.json_values import to_plain
from qpipe.settings import TorchSettings

_NAMED = 8
_TABLES = ("inputs", "outputs", "ops", "roles", "nodes", "problems", "ready", "notes", "comparison")


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


def _show(model: str, report: Mapping[str, Any]) -> None:
    """Facts first, then ops, then the nodes, and last what stands in the way."""
    say(model)
    for key, value in report.items():
        if key not in _TABLES:
            say(f"  {key}: {cell(value)}")
    for key in ("inputs", "outputs"):
        say(f"  {key}: {', '.join(map(_tensor, report[key]))}")
    print_table("ops", [{"op": op, "nodes": count} for op, count in report["ops"].items()])
    # Most models need no advice, and then the column would only take the room.
    unused = {"advice"} if not any(node["advice"] for node in report["nodes"]) else set()
    print_table("nodes", [{key: node[key] for key in node if key not in unused} for node in report["nodes"]])
    say(", ".join(f"{role}: {count}" for role, count in report["roles"].items()))
    for note in report["notes"]:
        say(f"note: {note}")
    for problem in report["problems"]:
        say(f"problem: {problem}")
    if report["comparison"] is not None:
        _show_comparison(report["comparison"])
    changes = [node["name"] for node in report["nodes"] if node["advice"]]
    if changes:
        more = ", ..." if len(changes) > _NAMED else ""
        say(f"no integer form as they stand ({len(changes)}): {', '.join(changes[:_NAMED])}{more}")
    islands = report["roles"].get("float island", 0)
    if islands and report["ready"]:
        say(f"float between integers ({islands} nodes): what lies between them is exact")
    elif report["ready"] and report["kind"] == "float":
        say("every node before the float tail has an integer form: `qpipe calibrate` takes it")


def _show_comparison(compared: Mapping[str, Any]) -> None:
    """Each tensor's signal to noise, and what was found wrong."""
    rows = [
        {
            "tensor": row["tensor"], "layer": row["layer"], "bits": row["bits"], "signal to noise, dB": row["decibels"],
            "channels": row["channels"] or None, "with fewer than 2 levels": len(row["lost"]),
        }
        for row in compared["tensors"]
    ]  # fmt: skip
    agreement = compared["agreement"]
    same = "" if agreement is None else f", first choice equal on {agreement:.0%}"
    print_table(f"after calibration, beside the float network: {compared['images']} images{same}", rows)
    for problem in compared["problems"]:
        say(f"found: {problem}")


def _tensor(tensor: Mapping[str, Any]) -> str:
    """Such as "x float [batch, 3, 32, 32]"."""
    shape = "?" if tensor["shape"] is None else ", ".join(map(str, tensor["shape"]))
    return f"{tensor['name']} {tensor['type']} [{shape}]"
