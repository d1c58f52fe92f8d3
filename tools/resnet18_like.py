"""A float ONNX network with ResNet-18's shapes and random weights, for measuring time where accuracy plays no part.

Each BatchNormalization's statistics are measured on a batch of noise while the network is built, so that activations
keep unit variance through all layers, as a trained network's do.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from onnx import TensorProto, helper, numpy_helper
from resnets import RESNET18, FloatArray
from resnets import build as build_resnet


def build(*, image_size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """The network, from `input` float32 [batch, 3, image_size, image_size] to `logits` float32 [batch, classes]."""
    model = build_resnet(RESNET18, image_size=image_size, classes=classes, seed=seed, name="resnet18_like")
    # Of the seed alone the noise would be the weights once more.
    _measure_statistics(model, np.random.default_rng((seed, 1)), image_size)
    onnx.checker.check_model(model)
    return model


def _measure_statistics(model: onnx.ModelProto, rng: np.random.Generator, image_size: int) -> None:
    """Replace every BatchNormalization's mean and variance by what its input has on noise, layer after layer.

    One pass in graph order is enough: each layer's statistics are set before the next layer's are read.
    """
    import onnxruntime as ort

    noise = rng.normal(0.0, 1.0, (2, 3, image_size, image_size)).astype(np.float32)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    known: dict[str, FloatArray] = {"input": noise}
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            x = known[node.input[0]]
            for name, value in zip(node.input[3:5], (x.mean((0, 2, 3)), x.var((0, 2, 3)) + 1e-3), strict=True):
                initializers[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
        inputs = [name for name in node.input if name not in initializers]
        constants = [initializers[name] for name in node.input if name in initializers]
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, known[name].shape) for name in inputs]
        output = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
        step = helper.make_model(
            helper.make_graph([node], "step", values, [output], constants),
            opset_imports=model.opset_import,
            ir_version=8,
        )
        session = ort.InferenceSession(step.SerializeToString(), providers=["CPUExecutionProvider"])
        known[node.output[0]] = session.run(None, {name: known[name] for name in inputs})[0]


def file_in(folder: Path) -> Path:
    """The network at 224x224 in this folder, written where it is not there yet."""
    path = folder / "resnet18_like.onnx"
    if not path.exists():
        onnx.save(build(), path)
    return path


def main(
    output: Annotated[Path, typer.Argument(help="where the .onnx file goes")] = Path("artifacts/resnet18_like.onnx"),
    image_size: Annotated[int, typer.Option(help="height and width of the input")] = 224,
    classes: Annotated[int, typer.Option(help="number of logits")] = 1000,
    seed: Annotated[int, typer.Option(help="of every random draw")] = 0,
) -> None:
    """Write a ResNet-18-shaped float network with random weights.

    Example: python tools/resnet18_like.py artifacts/resnet18_like.onnx
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(build(image_size=image_size, classes=classes, seed=seed), output)
    typer.echo(str(output))


if __name__ == "__main__":
    typer.run(main)
