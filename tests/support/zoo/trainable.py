"""Small networks in training: calibrated, some with a counterpart without skips, and the executor of each."""

from functools import partial
from typing import Any

import onnx_ir as ir
import torch

from qpipe.settings.training import BatchNormMode
from qpipe.train.executor import Executor
from qpipe.train.weighted import WeightedLayer
from support.networks import Network
from support.quantize import quantized
from support.zoo.residual import made, post_activation, residual_network, stripped

CLASSES = 5
IMAGE_SHAPE = (3, 8, 8)


def network(out: int = 8, classes: int = 4) -> tuple[Network, str]:
    net = Network(*IMAGE_SHAPE)
    x = net.op("Relu", net.norm(net.conv("x", 3, out), out))
    x = net.op("Relu", net.norm(net.op("Add", net.conv(x, out, out), x), out))
    return net, net.head(x, out, classes)


def qdq(out: int = 8, classes: int = 4) -> ir.Model:
    net, y = network(out, classes)
    return quantized(net.model(y), net.inputs())


def residual_qdq(classes: int = CLASSES, images: int = 16, **options: Any) -> ir.Model:
    """Two residual blocks of 4 bits: `add1` on one resolution, and `add2`, which halves it and has a Conv as skip.

    Convolutions 0 | 1, 2 | 4, 5, the second skip's between them, and the Gemm.
    """
    net, model = made(partial(post_activation, classes=classes))
    return quantized(model, net.inputs(images), **{"weight_bits": 4, "activation_bits": 4, **options})


def plain_qdq(**options: Any) -> ir.Model:
    return stripped(residual_qdq(**options))


def two_blocks() -> ir.Model:
    """The same of 8 bits; four classes."""
    return residual_qdq(4, 8, weight_bits=8, activation_bits=8)


def two_plain_blocks() -> ir.Model:
    return stripped(two_blocks())


def small_executor(bits: int = 8, seed: int = 0) -> Executor:
    return Executor(quantized(residual_network(seed), bits=bits))


def in_training(model: ir.Model, batch_norm: BatchNormMode = "batch") -> Executor:
    executor: Executor = Executor(model, batch_norm=batch_norm).train()
    return executor


def logits(executor: Executor, x: torch.Tensor) -> torch.Tensor:
    return executor(x)[0].flatten(1)


def weighted(executor: Executor) -> list[WeightedLayer]:
    return list(executor.weighted())
