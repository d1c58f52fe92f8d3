"""Averaged weights: an exponential moving average of all that trains, which is what is written.

After update t, counted from 1, every tensor p of the network that trains, weights, gamma, beta and biases, moves its
average a by

    a <- d a + (1 - d) p,   d = min(decay, (1 + t) / (10 + t))

so that the average of a short run is none of its beginning. At the end the averages take the tensors' places. Running
statistics are not averaged: those of a network with averaged weights are others, so the loop estimates them anew
(`qpipe/train/statistics.py`).

Source: Polyak and Juditsky 1992; d as TensorFlow's `ExponentialMovingAverage` has it; statistics anew: Izmailov et al.
2018, *Averaging Weights Leads to Wider Optima and Better Generalization*, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

import torch
from torch import nn

from qpipe.train.companion import Companion
from qpipe.train.executor import Executor


class WeightAverage(Companion):
    """The averages of one network's parameters; decay: the largest d, below 1."""

    def __init__(self, network: Executor, *, decay: float) -> None:
        super().__init__()
        self._decay = decay
        # Behind a function, so that the network is no module of this one.
        self._trained: Callable[[], list[nn.Parameter]] = lambda: [p for p in network.parameters() if p.requires_grad]
        self._number = 0
        for index, parameter in enumerate(self._trained()):
            self.register_buffer(f"average{index}", parameter.detach().clone())

    def begin_update(self, done: Fraction, update: int) -> None:
        """Count it."""
        self._number = update + 1

    @torch.no_grad()
    def end_update(self) -> None:
        """Move the averages towards the weights."""
        share = 1 - min(self._decay, (1 + self._number) / (10 + self._number))
        for average, parameter in self._pairs():
            average.lerp_(parameter, share)

    @torch.no_grad()
    def end_training(self) -> bool:
        """Put the averages in the weights' places."""
        for average, parameter in self._pairs():
            parameter.copy_(average)
        return True

    def _pairs(self) -> Iterator[tuple[torch.Tensor, nn.Parameter]]:
        return ((self.get_buffer(f"average{index}"), p) for index, p in enumerate(self._trained()))
