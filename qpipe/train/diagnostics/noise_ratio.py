"""The signal-to-quantization-noise ratio of weights and activations: `10 log10(sum x**2 / sum (x - Q(x))**2)`, in dB.

A weight's x is the float weight. An activation's is what its quantizer reads, behind the ReLU, while everything before
it runs quantized: the noise of this one quantizer, not what the layers before it left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from qpipe.data import Source
from qpipe.data.inputs import Inputs
from qpipe.errors import DataError
from qpipe.train.diagnostics.measurement import Measurement
from qpipe.train.executor import Executor
from qpipe.train.given import given_of
from qpipe.train.quantizer import Quantizer

IMAGES, BATCH_SIZE = 256, 64
"""How many images the activations' noise is measured on, and how many at once."""


def diagnostic_images(source: Source) -> list[Inputs]:
    """The first images of a source, as they are, in a few batches."""
    batches = [batch.inputs for batch in source.batches(BATCH_SIZE, limit=IMAGES)]
    if not batches:
        raise DataError(f"{source.name}: no images to measure the activations' noise on")
    return batches


class NoiseRatio(Measurement):
    """The ratios of a quantized network before and after training.

    Args:
        inputs: batches of images, on which the activations' noise is measured.
    """

    def __init__(self, inputs: Sequence[Inputs]) -> None:
        self._inputs = inputs
        self._before: dict[str, torch.Tensor] = {}
        self._after: dict[str, torch.Tensor] = {}

    def on_start(self, executor: Executor) -> None:
        """Measure, unless a checkpoint brought what was before."""
        self._before = self._before or self._noise(executor)

    def on_end(self, executor: Executor) -> None:
        """Measure again."""
        self._after = self._noise(executor)

    def state(self) -> dict[str, torch.Tensor]:
        """The noise before training."""
        return self._before

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put back what `state` gave."""
        self._before = dict(state)

    def result(self) -> dict[str, Any]:
        """`sqnr_before` and `sqnr_after`, each of `weight` by layer and of `activation` by quantizer; None where a
        ratio is infinite, because the values lie on the grid already.
        """
        return {"sqnr_before": _finite(self._before), "sqnr_after": _finite(self._after)}

    def _noise(self, executor: Executor) -> dict[str, torch.Tensor]:
        return {"weight": weight_noise(executor), "activation": activation_noise(executor, self._inputs)}


@torch.no_grad()
def weight_noise(executor: Executor) -> torch.Tensor:
    """dB of each weighted layer, float64 `[layers]`; infinite where nothing is lost."""
    pairs = [_energies(module.weight.detach(), module.quantized_weight().detach()) for module in executor.weighted()]
    return torch.stack([decibels(pair).cpu() for pair in pairs])


@torch.no_grad()
def activation_noise(executor: Executor, inputs: Sequence[Inputs]) -> torch.Tensor:
    """dB of each activation quantizer over these batches `[N, C, H, W]`, float64 `[quantizers]`, as weight_noise.

    The network runs as its file computes; its mode is put back.
    """
    quantizers = [quantizer for _, quantizer in executor.named_quantizers()]
    energies = torch.zeros(len(quantizers), 2, dtype=torch.float64)

    def add(index: int, quantizer: Quantizer, x: torch.Tensor, on_grid: torch.Tensor) -> None:
        energies[index] += _energies(quantizer.unrounded(x), on_grid).cpu()

    hooks = [
        quantizer.register_forward_hook(lambda quantizer, x, y, index=index: add(index, quantizer, x[0], y))
        for index, quantizer in enumerate(quantizers)
    ]
    was_training, device = executor.training, next(executor.parameters()).device
    executor.eval()
    try:
        for batch in inputs:
            executor(given_of(executor.graph, batch, device))
    finally:
        for hook in hooks:
            hook.remove()
        executor.train(was_training)
    return torch.stack([decibels(pair) for pair in energies])


def decibels(energies: torch.Tensor) -> torch.Tensor:
    """Of `[signal, noise]`; infinite without noise, NaN without a signal."""
    return 10 * torch.log10(energies[0] / energies[1])


def _energies(x: torch.Tensor, on_grid: torch.Tensor) -> torch.Tensor:
    """`[sum x**2, sum (x - on_grid)**2]` in float64."""
    x, on_grid = x.double(), on_grid.double()
    return torch.stack([x.square().sum(), (x - on_grid).square().sum()])


def _finite(noise: Mapping[str, torch.Tensor]) -> dict[str, list[float | None]]:
    return {
        name: [ratio if math.isfinite(ratio) else None for ratio in ratios.tolist()] for name, ratios in noise.items()
    }
