"""`qpipe calibrate`: float network -> QDQ network."""

from qpipe.cli.options import DataOption, JsonOption, ModelArgument, OutputOption, SeedOption, expand_settings
from qpipe.cli.output import emit, metadata, print_line, working
from qpipe.settings import CalibrateSettings, PreprocessSettings, TorchSettings


@expand_settings
def calibrate(
    model: ModelArgument,
    data: DataOption,
    output: OutputOption,
    settings: CalibrateSettings,
    preprocess: PreprocessSettings,
    source: TorchSettings,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Give a float network its integer grids, from a few batches.

    \b
    Example:
      qpipe calibrate resnet20.onnx --data cifar10.npz -o resnet20.qdq.onnx \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    """
    import qpipe

    with working():
        qdq = qpipe.calibrate(
            model,
            data,
            output,
            **settings.arguments(),
            **source.arguments(),
            seed=seed,
            preprocess=preprocess.overrides(),
        )
    emit(json, {"output": output, "metadata": metadata(qdq)}, lambda: print_line(f"wrote {output}"))
