"""`qpipe validate`: accuracy and agreement of any number of models, the certificate checked again."""

import typer

from qpipe.cli.options import DataOption, JsonOption, ModelsArgument, expand_settings
from qpipe.cli.output import emit, print_table, say, working
from qpipe.errors import ParityError
from qpipe.json_values import plain_rows
from qpipe.settings import PreprocessSettings, TaskSettings, ValidateSettings


@expand_settings
def validate(
    models: ModelsArgument,
    data: DataOption,
    settings: ValidateSettings,
    task: TaskSettings,
    preprocess: PreprocessSettings,
    json: JsonOption = False,
) -> None:
    """Compare models on data, judged by labels where there are some.

    A trainable QDQ file is finalized in memory first. The final QDQ file, all exports and the trained network in
    evaluation are equal to the bit; a trainable file that is run as it lies is near them, not equal. The exit status is
    1 where integers differ that must be equal.

    \b
    Example:
      qpipe validate resnet20.onnx resnet20.int8.onnx --data cifar10.npz
    """
    import qpipe

    with working() as told:
        report = qpipe.validate(
            models, data, **settings.arguments(), **task.arguments(), preprocess=preprocess.overrides()
        )
    rows = plain_rows(report.rows)

    def show() -> None:
        print_table(f"{data}, {settings.split}, {report.images} images", rows)
        for line in (*filter(None, [report.task["said"]]), *report.notes, *report.problems):
            say(line)
        if report.ok:
            compared = any(row["integers_equal"] for row in rows)
            say("every integer is equal" if compared else "no two models come from one QDQ file")

    emit(json, {**report.to_json(), "data": told}, show)
    if not report.ok:
        raise typer.Exit(ParityError.exit_status)
