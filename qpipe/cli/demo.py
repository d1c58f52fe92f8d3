"""`qpipe demo`: the whole pipeline on the embedded digits."""

from typing import Annotated

import typer

from qpipe.cli.options import JsonOption
from qpipe.cli.output import working
from qpipe.cli.run import RestartOption, emit_report


def demo(
    output: Annotated[str, typer.Option("--output", "-o", help="the folder of everything that is written")] = (
        "artifacts/demo"
    ),
    restart: RestartOption = False,
    json: JsonOption = False,
) -> None:
    """Do all of it on built-in data, in under two minutes.

    A small ResNet is trained on scikit-learn's digits, calibrated, fine-tuned, exported in all formats and validated.

    \b
    Example:
      qpipe demo
    """
    from qpipe.demo.run import run_demo

    with working():
        report = run_demo(output, restart=restart)
    emit_report(json, report)
