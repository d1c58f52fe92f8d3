"""`qpipe report`: finished runs -> one page of HTML."""

from typing import Annotated

import typer

from qpipe.cli.options import JsonOption, expand_settings
from qpipe.cli.output import emit, say, working
from qpipe.settings import ReportSettings


@expand_settings
def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="files of finetune or export, or folders of `qpipe run`")
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="the page to write")],
    settings: ReportSettings,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="what the page calls a run; repeat it, in the runs' order")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Draw finished runs on one page of HTML.

    Loss and accuracy curves, certificate and provenance; and, of runs that were fine-tuned with --diagnose, the noise
    of quantization. Several runs are drawn over each other. The page opens without a network.

    \b
    Example:
      qpipe report w8.qdq.onnx w4.qdq.onnx --name "8 bits" --name "4 bits" -o report.html
    """
    import qpipe

    with working():
        page = qpipe.report(runs, output, names=name or None, **settings.arguments())

    def show() -> None:
        for sentence in page.missing:
            say(sentence)
        say(f"wrote {output}")

    emit(json, {"output": output, **page.to_json()}, show)
