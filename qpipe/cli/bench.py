"""`qpipe bench`: latency, memory, size and accuracy of any number of models."""

from typing import Annotated

import typer

from qpipe.cli.options import JsonOption, ModelsArgument, PictureOption, expand_settings
from qpipe.cli.output import emit, print_table, say, working
from qpipe.json_values import plain_rows
from qpipe.settings import BenchSettings, DataSettings, PreprocessSettings, TaskSettings


@expand_settings
def bench(
    models: ModelsArgument,
    settings: BenchSettings,
    task: TaskSettings,
    preprocess: PreprocessSettings,
    data: Annotated[
        str | None,
        typer.Option("--data", help=f"judge the models as well, on {DataSettings.model_fields['path'].description}"),
    ] = None,
    picture: PictureOption = None,
    json: JsonOption = False,
) -> None:
    """Measure latency, memory and sizes of models.

    With labelled data top-1 as well, or the metric of another task. Ratios are to the first model. `activation` is the
    most that activations take at once, by which of them are alive together; `peak` is what the runtime's process took.

    \b
    Example:
      qpipe bench resnet20.onnx resnet20.int8.onnx --batch-sizes 1,8 --threads 2
      qpipe bench residual.onnx plain.onnx --data cifar10.npz --picture plain.png
    """
    import qpipe

    with working():
        report = qpipe.bench(
            models, data, **settings.arguments(), **task.arguments(), preprocess=preprocess.overrides(), picture=picture
        )

    def show() -> None:
        rows = plain_rows(report.rows)
        known = {key for row in rows for key, value in row.items() if value is not None} - {"activation_node"}
        print_table("latency and memory", [{key: row[key] for key in row if key in known} for row in rows])
        for note in report.notes:
            say(note)
        if data is not None:
            say(f"judged on: {data}, {settings.split}, {report.images} images")
        say(f"CPU: {report.cpu}")
        if picture is not None:
            say(f"wrote {picture}")

    emit(json, report.to_json(), show)
