"""`qpipe bench`: latency, peak memory and size of any number of models."""

from qpipe.cli.options import JsonOption, ModelsArgument, expand_settings
from qpipe.cli.output import emit, print_line, print_table, working
from qpipe.plain import plain_rows
from qpipe.settings import BenchSettings


@expand_settings
def bench(models: ModelsArgument, settings: BenchSettings, json: JsonOption = False) -> None:
    """Measure latency, peak memory and file sizes of models.

    \b
    Example:
      qpipe bench resnet20.onnx resnet20.int8.onnx --batch-sizes 1,8 --threads 2
    """
    import qpipe

    with working():
        report = qpipe.bench(models, **settings.arguments())

    def show() -> None:
        print_table("latency and peak memory", plain_rows(report.rows))
        print_line(f"CPU: {report.cpu}")

    emit(json, report.to_json(), show)
