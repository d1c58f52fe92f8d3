"""`qpipe export`: QDQ network -> the integer network that ships, proven equal."""

from typing import Annotated

import typer
from pydantic import JsonValue

from qpipe.cli.options import JsonOption, OutputOption, QdqArgument, expand_settings
from qpipe.cli.output import emit, metadata, print_table, say, working
from qpipe.json_values import plain_rows
from qpipe.settings import ExportSettings, SeedSettings

_NAMED = 8
DATA_HELP = "data whose images join the random and extreme inputs of the gate"


@expand_settings
def export(
    model: QdqArgument,
    output: OutputOption,
    settings: ExportSettings,
    seed: SeedSettings,
    data: Annotated[str | None, typer.Option("--data", help=DATA_HELP)] = None,
    json: JsonOption = False,
) -> None:
    """Lower a QDQ network to integers, and prove it equal.

    The file is run against the QDQ file: one integer that differs fails the export and names the layer. The
    certificate of exactness is printed, and stored in the file.

    \b
    Example:
      qpipe export resnet20.qdq.onnx --format qoperator -o resnet20.int8.onnx
      qpipe export resnet20.qdq.onnx --format integer --io integer -o resnet20.integer.onnx
    """
    from rich.filesize import decimal

    import qpipe
    from qpipe.ir.cost.file_size import file_size

    with working():
        exported = qpipe.export(model, output, **settings.arguments(), **seed.arguments(), data=data)
    carried, size = metadata(exported), file_size(output)

    def show() -> None:
        rows = certificate_rows(carried.get("certificate"))
        print_table("certificate", rows)
        # The operators of the other formats are integer ones, whatever runs them.
        fused = [str(row["layer"]) for row in rows if row["exact_in_float32"] is False]
        if settings.format == "qdq" and fused:
            say(f"exact only where a runtime fuses them to integer kernels: {', '.join(fused)}")
        if floats := float_line(carried.get("certificate")):
            say(floats)
        say(gate_line(carried.get("certificate")))
        say(f"wrote {output}, {decimal(size)}")

    emit(json, {"output": output, "size": size, "metadata": carried}, show)


def certificate_rows(certificate: JsonValue) -> list[dict[str, JsonValue]]:
    """The rows of the certificate, one per layer, in the order in which its definition names the columns.

    No row of an export that was written has problems.
    """
    from dataclasses import fields

    from qpipe.arith.certificate import CertificateRow

    rows = certificate.get("layers") if isinstance(certificate, dict) else None
    columns = [field.name for field in fields(CertificateRow) if field.name != "problems"]
    return [{name: row.get(name) for name in columns} for row in plain_rows(rows)] if isinstance(rows, list) else []


def float_line(certificate: JsonValue) -> str:
    """Which nodes stay float between integers, in one sentence; "" where none does."""
    names = certificate.get("float_nodes") if isinstance(certificate, dict) else None
    if not isinstance(names, list) or not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (
        f"float between integers: {', '.join(map(str, names[:_NAMED]))}{more}; what is proven and compared holds for "
        "each region of integers"
    )


def gate_line(certificate: JsonValue) -> str:
    """What the gate compared, in one sentence."""
    gate = certificate.get("gate") if isinstance(certificate, dict) else None
    if not isinstance(gate, dict):
        return "nothing was compared"
    images = f"{gate['images']} images, " if gate["images"] else ""
    return (
        f"{gate['integers']:,} integers of {gate['tensors']} tensors equal the QDQ file's: on {images}"
        f"{gate['extreme_rows']} random and extreme inputs, and layer by layer"
    )
