"""Two residual blocks, an identity and a convolution as skip, quantized, with their plain counterpart; and a run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from networks import Network, quantized
from residual_networks import post_activation, stripped
from small_training import SETTINGS, replace

from qpipe.data import Preprocess, Source, open_data
from qpipe.settings.training import BatchNormMode
from qpipe.train.companion import Companion
from qpipe.train.executor import Executor
from qpipe.train.weighted import WeightedLayer

CLASSES, IMAGES = 5, 48
IMAGE_SHAPE = (3, 8, 8)
RUN = replace(SETTINGS, optimizer="adam", lr=1e-3, weight_decay=0.0, crop_padding=0, flip=False)
"""Two epochs of three updates."""
SUMMED_OTHERWISE = 1e-4
"""Relative, of gradients: float32 sums of a few thousand products in another order."""


def residual_qdq(**options: Any) -> ir.Model:
    """Convolutions 0 | 1, 2 | 4, 5, the second skip's between them, and the Gemm."""
    net = Network(*IMAGE_SHAPE)
    model = net.model(post_activation(net, True))
    return quantized(model, net.inputs(16), **{"weight_bits": 4, "activation_bits": 4, **options})


def plain_qdq(**options: Any) -> ir.Model:
    return stripped(residual_qdq(**options))


def in_training(model: ir.Model, batch_norm: BatchNormMode = "batch") -> Executor:
    executor: Executor = Executor(model, batch_norm=batch_norm).train()
    return executor


def batch(count: int = 12, seed: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((count, *IMAGE_SHAPE)).astype(np.float32)
    return torch.from_numpy(images), torch.arange(count) % CLASSES


def images() -> Source:
    """Labels from 0 to 4 and noise."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, 8, 8, 3), dtype=np.uint8)
    return open_data((pixels, np.arange(IMAGES) % CLASSES), "train", Preprocess(mean=(0.5,), std=(0.5,)))


def logits(executor: Executor, x: torch.Tensor) -> torch.Tensor:
    return executor(x)[0].flatten(1)


def weighted(executor: Executor) -> list[WeightedLayer]:
    return list(executor.weighted())


def state(companions: Sequence[Companion]) -> dict[str, torch.Tensor]:
    return {
        f"{number}.{name}": tensor.clone()
        for number, companion in enumerate(companions)
        for name, tensor in companion.state_dict().items()
    }
