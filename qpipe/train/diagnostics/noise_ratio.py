"""The signal-to-quantization-noise ratio of weights and activations: `10 log10(sum x**2 / sum (x - Q(x))**2)`, in dB.

A weight's x is the float weight. An activation's is what its quantizer reads, behind the ReLU, while everything before
it runs quantized: the noise of this one quantizer, not what the layers before it left.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qpipe.train.executor import Executor
from qpipe.train.quantizer import Quantizer


@torch.no_grad()
def weight_noise(executor: Executor) -> torch.Tensor:
    """dB of each weighted layer, float64 `[layers]`; infinite where nothing is lost."""
    pairs = [_energies(module.weight.detach(), module.quantized_weight().detach()) for module in executor.weighted()]
    return torch.stack([decibels(pair).cpu() for pair in pairs])


@torch.no_grad()
def activation_noise(executor: Executor, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
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
            executor(batch.to(device))
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
