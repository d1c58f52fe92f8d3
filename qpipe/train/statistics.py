"""Running statistics of BatchNormalizations, estimated anew for weights as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch

from qpipe.train.executor import Executor
from qpipe.train.given import Given

BATCHES: Final = 100
"""Of training images: enough that the mean of a channel errs by a percent of its deviation and less."""


@torch.no_grad()
def estimate_statistics(executor: Executor, batches: Iterable[Given]) -> None:
    """Make running means and variances the means of those of these batches, as training computes them.

    executor: in training; one that normalizes by running statistics stays as it is.
    """
    layers = [layer for layer in executor.weighted() if layer.has_batch_norm and layer.mode == "batch"]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for number, inputs in enumerate(batches, start=1):
        for layer in layers:
            layer.momentum = 1 / number
        executor.answer(inputs)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
