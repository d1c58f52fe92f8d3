"""`qpipe calibrate`: float network -> QDQ network."""

from qpipe.cli.options import (
    DataOption,
    JsonOption,
    LayerOption,
    ModelArgument,
    OutputOption,
    expand_settings,
    parse_layers,
)
from qpipe.cli.output import emit, metadata, say, working
from qpipe.settings import CalibrateSettings, PreprocessSettings, SeedSettings, TorchSettings


@expand_settings
def calibrate(
    model: ModelArgument,
    data: DataOption,
    output: OutputOption,
    settings: CalibrateSettings,
    preprocess: PreprocessSettings,
    source: TorchSettings,
    seed: SeedSettings,
    layer: LayerOption = None,
    json: JsonOption = False,
) -> None:
    """Give a float network its integer grids, from a few batches.

    A QDQ file that can be trained, with fixed-point weights, is taken as the float network that it holds: so a network
    that was trained at 8 bits is brought to fewer.

    The file is compared with the float network on a few images of the data, and what is lost is said by name. It runs
    on onnxruntime as it lies; what it becomes (`qpipe export --format qdq`) is near that, and equal to every export.

    \b
    Example:
      qpipe calibrate resnet20.onnx --data cifar10.npz -o resnet20.qdq.onnx \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
      qpipe calibrate resnet20.onnx --data cifar10.npz -o resnet20.qdq.onnx --weight-bits 4 --activation-bits 4 \\
        --layer "layer3.*:weight_bits=3" --layer "layer1.0/conv1/*:weight_bits=6,weight_clip=5"
    """
    import qpipe

    layers = [entry.arguments() for entry in parse_layers(layer)]
    with working() as told:
        qdq = qpipe.calibrate(
            model,
            data,
            output,
            **settings.arguments(),
            **source.arguments(),
            **seed.arguments(),
            layers=layers,
            preprocess=preprocess.overrides(),
        )
    emit(json, {"output": output, "metadata": metadata(qdq), "data": told}, lambda: say(f"wrote {output}"))
