"""`qpipe export`: QDQ network -> the integer network that ships, proven equal."""

from typing import Annotated

import typer
from pydantic import JsonValue

from qpipe.cli.options import JsonOption, OutputOption, QdqArgument, SeedOption, expand_settings
from qpipe.cli.output import emit, metadata, print_line, print_table, working
from qpipe.plain import plain_rows
from qpipe.settings import ExportSettings, Format

DATA_HELP = "data whose images join the random and extreme inputs of the gate"


@expand_settings
def export(
    model: QdqArgument,
    output: OutputOption,
    settings: ExportSettings,
    format: Annotated[Format, typer.Option("--format", help="the form of the exported graph")] = "qoperator",
    data: Annotated[str | None, typer.Option("--data", help=DATA_HELP)] = None,
    seed: SeedOption = 0,
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
    import qpipe

    with working():
        exported = qpipe.export(model, output, format=format, **settings.arguments(), data=data, seed=seed)
    carried = metadata(exported)

    def show() -> None:
        print_table("certificate", certificate_rows(carried.get("certificate")))
        print_line(f"wrote {output}")

    emit(json, {"output": output, "metadata": carried}, show)


def certificate_rows(certificate: JsonValue) -> list[dict[str, JsonValue]]:
    """The rows of the certificate, one per layer, whether they are stored bare or beside other facts."""
    if isinstance(certificate, dict):
        lists = [value for value in certificate.values() if isinstance(value, list)]
        certificate = lists[0] if lists else [certificate]
    return plain_rows(certificate) if isinstance(certificate, list) else []
