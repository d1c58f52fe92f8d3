"""`qpipe adopt`: a quantized network of another tool -> QDQ network."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from pydantic import JsonValue

from qpipe.cli.options import DataOption, JsonOption, OutputOption, expand_settings
from qpipe.cli.output import emit, metadata, print_table, say, working
from qpipe.settings import AdoptSettings, PreprocessSettings, SeedSettings

_NAMED = 8


@expand_settings
def adopt(
    model: Annotated[str, typer.Argument(help="a quantized .onnx file that another tool wrote")],
    data: DataOption,
    output: OutputOption,
    settings: AdoptSettings,
    preprocess: PreprocessSettings,
    seed: SeedSettings,
    compare: Annotated[bool, typer.Option(help="run both files on the test data")] = True,
    json: JsonOption = False,
) -> None:
    """Make a QDQ network of another tool's file.

    Its quantizers say the range of each tensor; what they don't say is observed on the data. What the tool left in
    float stays float. Both files are run on the test data, so that it can be seen what the new grids cost; `finetune`
    and `export` go on from there.

    \b
    Example:
      qpipe adopt net.onnxruntime.onnx --data cifar10.npz -o net.qdq.onnx --mean 0.485,0.456,0.406
    """
    import qpipe

    with working() as heard:
        qdq = qpipe.adopt(
            model, data, output, **settings.arguments(), **seed.arguments(), preprocess=preprocess.overrides()
        )
        compared, trouble = None, ""
        if compare:
            try:
                compared = qpipe.validate([model, output], data, preprocess=preprocess.overrides()).to_json()
            except qpipe.QpipeError as error:
                # The file is written and right; what can't be run is the other one, on inputs of integers say.
                trouble = str(error)
    told = metadata(qdq)

    def show() -> None:
        say(_taken(told["adopted"]))
        if compared is not None:
            print_table("before and after", _rows(compared))
        if trouble:
            say(f"not compared: {trouble}")
        say(f"wrote {output}")

    emit(json, {"output": output, "metadata": told, "data": heard, "compared": compared}, show)


def _taken(adopted: Any) -> str:
    """What the file said, in one sentence."""
    floats = adopted["float_layers"]
    more = f" and {len(floats) - _NAMED} more" if len(floats) > _NAMED else ""
    left = f"; left in float: {', '.join(floats[:_NAMED])}{more}" if floats else ""
    return f"ranges of {adopted['ranges']} tensors are those of its quantizers{left}"


def _rows(compared: dict[str, Any]) -> list[Mapping[str, JsonValue]]:
    """Of each file what it is judged by: all that is between its size and what compares integers."""
    hidden = {"kind", "size", "largest_difference", "integers_equal", "certificate"}
    return [{name: value for name, value in row.items() if name not in hidden} for row in compared["rows"]]
