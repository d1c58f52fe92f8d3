"""A network and data on which the loop runs in a moment."""

from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from networks import Network, quantized
from residual_networks import made, post_activation, stripped

from qpipe.data import Preprocess, Source, open_data
from qpipe.settings import FinetuneSettings
from qpipe.train.executor import Executor

SETTINGS = FinetuneSettings(
    epochs=2, lr=0.02, momentum=0.9, weight_decay=1e-4, batch_size=16, crop_padding=1, flip=True
)
IMAGES, BATCHES = 72, 4  # four whole batches in an epoch


def replace(settings: FinetuneSettings, **values: Any) -> FinetuneSettings:
    """Settings with other values, together or not."""
    return settings.model_copy(update=values)


def network(out: int = 8, classes: int = 4) -> tuple[Network, str]:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.norm(net.conv("x", 3, out), out))
    x = net.op("Relu", net.norm(net.op("Add", net.conv(x, out, out), x), out))
    return net, net.head(x, out, classes)


def qdq(out: int = 8, classes: int = 4) -> ir.Model:
    net, y = network(out, classes)
    return quantized(net.model(y), net.inputs())


def two_blocks() -> ir.Model:
    """QDQ: two residual blocks, `add1` on one resolution and `add2`, which halves it; four classes."""
    net, model = made(partial(post_activation, classes=4))
    return quantized(model, net.inputs())


def two_plain_blocks() -> ir.Model:
    return stripped(two_blocks())


def bright_images(seed: int = 0) -> Source:
    """Images whose brightest channel is their class; the fourth has none."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, IMAGES)
    images = rng.integers(0, 120, (IMAGES, 8, 8, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, :, label : label + 1] += 120
    return open_data((images, labels), "train", Preprocess(mean=(0.5,), std=(0.5,)))


def state_of(executor: Executor) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in executor.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
