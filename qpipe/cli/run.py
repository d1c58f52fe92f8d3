"""`qpipe run`: a whole pipeline from one recipe."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from qpipe.cli.options import JsonOption
from qpipe.cli.output import emit, print_table, say, working
from qpipe.json_values import plain_rows

if TYPE_CHECKING:
    from qpipe.pipeline import PipelineReport

RestartOption = Annotated[bool, typer.Option("--restart", help="do every stage again, finished or not")]


def run(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE.toml", help="the recipe")],
    restart: RestartOption = False,
    json: JsonOption = False,
) -> None:
    """Run a recipe: calibrate, finetune, export and validate.

    A rerun goes on after the last finished stage, and does again what changed since.

    \b
    Example:
      qpipe run resnet20.toml
    """
    from qpipe.pipeline import run_recipe
    from qpipe.recipe import load_recipe
    from qpipe.settings.toml import about_file

    with working(), about_file(recipe):
        report = run_recipe(load_recipe(recipe), restart=restart)
    emit_report(json, report)


def emit_report(json: bool, report: "PipelineReport") -> None:
    """Print a finished pipeline: its stages and the rows of its validation."""

    def show() -> None:
        print_table("stages", plain_rows(report.stages))
        print_table("validation", report.rows)
        say(f"all files are in {report.output}")

    emit(json, asdict(report), show)
