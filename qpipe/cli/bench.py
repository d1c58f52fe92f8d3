"""`qpipe bench`: latency and peak memory of any number of models."""

from qpipe.cli.options import JsonOption, ModelsArgument, expand_settings
from qpipe.cli.output import cell, emit, print_line, print_table, working
from qpipe.plain import plain_rows, to_plain
from qpipe.settings import BenchSettings


@expand_settings
def bench(models: ModelsArgument, settings: BenchSettings, json: JsonOption = False) -> None:
    """Measure latency and peak memory, as ratios to the first model.

    \b
    Example:
      qpipe bench resnet20.onnx resnet20.int8.onnx --batch-sizes 1,8 --threads 2
    """
    import qpipe

    with working():
        report = qpipe.bench(models, **settings.arguments())
    rows, cpu = plain_rows(report.rows), to_plain(report.cpu)

    def show() -> None:
        print_table("latency", rows)
        print_line(f"CPU: {cell(cpu)}")

    emit(json, {"cpu": cpu, "rows": rows}, show)
