"""A float ONNX network with ResNet-18's shapes and random weights, for measuring time where accuracy plays no part.

Weights are drawn after He et al. 2015; BatchNormalization nodes stay nodes. Each one's statistics are measured on a
batch of noise while the network is built, so that activations keep unit variance through all layers, as a trained
network's do.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import onnx
import typer
from onnx import TensorProto, helper, numpy_helper

FloatArray = npt.NDArray[np.float32]
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
BLOCKS_PER_STAGE = 2


@dataclass
class _Builder:
    """Collects nodes and initializers; draws every weight from one seeded generator."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, array: FloatArray) -> str:
        self.initializers.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def node(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def conv_bn(self, x: str, name: str, shape: tuple[int, int, int, int], stride: int) -> str:
        """Conv without bias, then BatchNormalization; `shape` is [C_out, C_in, kh, kw]."""
        channels, fan_in, pad = shape[0], int(np.prod(shape[1:])), shape[2] // 2
        weight = self.constant(f"{name}.weight", self.rng.normal(0.0, np.sqrt(2.0 / fan_in), shape).astype(np.float32))
        conv = self.node("Conv", [x, weight], f"{name}.conv", strides=[stride] * 2, pads=[pad] * 4)
        statistics = [
            self.constant(f"{name}.gamma", self.rng.uniform(0.5, 1.5, channels).astype(np.float32)),
            self.constant(f"{name}.beta", self.rng.normal(0.0, 0.2, channels).astype(np.float32)),
            self.constant(f"{name}.mean", np.zeros(channels, np.float32)),
            self.constant(f"{name}.var", np.ones(channels, np.float32)),
        ]
        return self.node("BatchNormalization", [conv, *statistics], name, epsilon=1e-5)

    def block(self, x: str, name: str, channels: tuple[int, int], stride: int) -> str:
        """Two 3x3 convolutions and their skip; a 1x1 convolution on the skip where the shape changes."""
        c_in, c_out = channels
        first = self.conv_bn(x, f"{name}.first", (c_out, c_in, 3, 3), stride)
        hidden = self.node("Relu", [first], f"{name}.hidden")
        second = self.conv_bn(hidden, f"{name}.second", (c_out, c_out, 3, 3), 1)
        skip = x if stride == 1 and c_in == c_out else self.conv_bn(x, f"{name}.skip", (c_out, c_in, 1, 1), stride)
        total = self.node("Add", [second, skip], f"{name}.sum")
        return self.node("Relu", [total], name)


def build(
    *, image_size: int = 224, classes: int = 1000, seed: int = 0, small_stem: bool = False, measured: bool = True
) -> onnx.ModelProto:
    """The network, from `input` float32 [batch, 3, image_size, image_size] to `logits` float32 [batch, classes].

    small_stem: a 3x3 convolution without stride and no pool, as for CIFAR-10. measured: see the module; without it
    statistics are those of nothing, which will do where nothing is run.
    """
    builder = _Builder(np.random.default_rng(seed))
    kernel, stride = (3, 1) if small_stem else (7, 2)
    x = builder.conv_bn("input", "stem", (64, 3, kernel, kernel), stride)
    x = builder.node("Relu", [x], "stem.relu")
    if not small_stem:
        x = builder.node("MaxPool", [x], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    c_in = 64
    for stage, (c_out, stride) in enumerate(STAGES):
        for index in range(BLOCKS_PER_STAGE):
            x = builder.block(x, f"stage{stage}.block{index}", (c_in, c_out), stride if index == 0 else 1)
            c_in = c_out
    x = builder.node("Flatten", [builder.node("GlobalAveragePool", [x], "pool")], "features")
    weight = builder.rng.normal(0.0, np.sqrt(1.0 / c_in), (classes, c_in)).astype(np.float32)
    bias = np.zeros(classes, np.float32)
    fc = [builder.constant("fc.weight", weight), builder.constant("fc.bias", bias)]
    builder.node("Gemm", [x, *fc], "logits", transB=1)
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, image_size, image_size])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])
    graph = helper.make_graph(builder.nodes, "resnet18_like", [image], [logits], builder.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    if measured:
        _measure_statistics(model, builder.rng, image_size)
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
