"""Residual networks as float ONNX, with random weights: the papers' ResNet-18, CIFAR's deep narrow ones, bottlenecks.

Weights are drawn after He et al. 2015; BatchNormalization nodes stay nodes. A skip has a 1x1 convolution where the
shape changes (option B). `resnet18_like.py` measures statistics of one, `train_resnet.py` trains them.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

FloatArray = npt.NDArray[np.float32]
EXPANSION: Final = 4
"""What a bottleneck's last convolution multiplies its channels by (He et al. 2015, section 4.1)."""


@dataclass(frozen=True)
class Design:
    """The shape of a network: the channels of its stages, of which each but the first halves the pixels.

    small_stem: a 3x3 convolution without stride and no pool behind it, as for CIFAR-10; else ImageNet's. bottleneck: of
    three convolutions a block, the channels are those of the first two.
    """

    channels: tuple[int, ...]
    blocks_per_stage: int
    small_stem: bool = True
    bottleneck: bool = False


RESNET18: Final = Design((64, 128, 256, 512), 2, small_stem=False)
CIFAR: Final = {
    "resnet18": Design((64, 128, 256, 512), 2),
    "resnet20": Design((16, 32, 64), 3),
    "resnet56": Design((16, 32, 64), 9),
    "resnet29_bottleneck": Design((16, 32, 64), 3, bottleneck=True),
}
"""For 32x32 pixels. In He et al. 2015, section 4.2, the skips of the narrow ones have no weights."""


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

    def basic(self, x: str, name: str, channels: tuple[int, int], stride: int) -> str:
        """Two 3x3 convolutions and their skip."""
        c_in, c_out = channels
        first = self.conv_bn(x, f"{name}.first", (c_out, c_in, 3, 3), stride)
        hidden = self.node("Relu", [first], f"{name}.hidden")
        second = self.conv_bn(hidden, f"{name}.second", (c_out, c_out, 3, 3), 1)
        return self.sum(second, x, name, channels, stride)

    def bottleneck(self, x: str, name: str, channels: tuple[int, int], stride: int) -> str:
        """1x1, 3x3 and 1x1, and their skip; channels: those that come and those that go."""
        c_in, c_out = channels
        c = c_out // EXPANSION
        first = self.node("Relu", [self.conv_bn(x, f"{name}.first", (c, c_in, 1, 1), 1)], f"{name}.narrow")
        second = self.node("Relu", [self.conv_bn(first, f"{name}.second", (c, c, 3, 3), stride)], f"{name}.hidden")
        third = self.conv_bn(second, f"{name}.third", (c_out, c, 1, 1), 1)
        return self.sum(third, x, name, channels, stride)

    def sum(self, y: str, x: str, name: str, channels: tuple[int, int], stride: int) -> str:
        """The end of a block; a 1x1 convolution on the skip where the shape changes."""
        c_in, c_out = channels
        skip = x if stride == 1 and c_in == c_out else self.conv_bn(x, f"{name}.skip", (c_out, c_in, 1, 1), stride)
        return self.node("Relu", [self.node("Add", [y, skip], f"{name}.sum")], name)


def build(design: Design, *, image_size: int, classes: int, seed: int = 0, name: str = "resnet") -> onnx.ModelProto:
    """The network, from `input` float32 [batch, 3, image_size, image_size] to `logits` float32 [batch, classes].

    Means and variances are 0 and 1, which will do where nothing is run before training.
    """
    builder = _Builder(np.random.default_rng(seed))
    kernel, stride = (3, 1) if design.small_stem else (7, 2)
    c_in = design.channels[0]
    x = builder.conv_bn("input", "stem", (c_in, 3, kernel, kernel), stride)
    x = builder.node("Relu", [x], "stem.relu")
    if not design.small_stem:
        x = builder.node("MaxPool", [x], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    block, expansion = (builder.bottleneck, EXPANSION) if design.bottleneck else (builder.basic, 1)
    for stage, channels in enumerate(design.channels):
        for index in range(design.blocks_per_stage):
            stride = 2 if stage > 0 and index == 0 else 1
            c_out = channels * expansion
            x = block(x, f"stage{stage}.block{index}", (c_in, c_out), stride)
            c_in = c_out
    x = builder.node("Flatten", [builder.node("GlobalAveragePool", [x], "pool")], "features")
    weight = builder.rng.normal(0.0, np.sqrt(1.0 / c_in), (classes, c_in)).astype(np.float32)
    bias = np.zeros(classes, np.float32)
    fc = [builder.constant("fc.weight", weight), builder.constant("fc.bias", bias)]
    builder.node("Gemm", [x, *fc], "logits", transB=1)
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, image_size, image_size])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])
    graph = helper.make_graph(builder.nodes, name, [image], [logits], builder.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model
