"""Weights that oscillate: rounded straight through, one whose best value lies between two codes goes to and fro.

An oscillation o of a weight is a change of its code whose direction is opposite to that of its change before; its
frequency is a moving average (equation 4):

    f <- m o + (1 - m) f,   m = 0.01

Two ways against it. *Dampening* adds a loss that draws weights to the middle of their bins (equation 5, without
gradients to the codes and the step s):

    lambda || s w_int - clip(w, s n, s p) ||**2

*Freezing* (Algorithm 1): a weight whose frequency is above a threshold keeps, for the rest of the run, the code that is
nearest to the moving average of its codes. It is the float weight that is held there, so that whatever else is asked of
codes, pairs that don't saturate among it, is asked of this one too.

As the authors' own program has it, both begin gently and are annealed along half a cosine, lambda from 0 to what is
told, the threshold from 0.1 to it; and weights of more than 4 bits are left alone, whose codes change all the time
because their steps are small. Exponents follow the weights here: where a channel's changes its codes are others, which
is no oscillation, and the moving average is counted in the new step.

Source: Nagel et al. 2022, *Overcoming Oscillations in Quantization-Aware Training*, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

import torch
from pydantic import JsonValue

from qpipe.errors import ModelError
from qpipe.ops.weight_layout import output_axis
from qpipe.train.companion import Companion, Loss
from qpipe.train.executor import Executor
from qpipe.train.given import Given
from qpipe.train.weighted import WeightedLayer, along

MOMENTUM: Final = 0.01
"""m."""
FIRST_THRESHOLD: Final = 0.1
"""What the threshold of frequencies begins at, where it ends lower."""
MOST_BITS: Final = 4
OSCILLATES: Final = 0.005
"""The frequency from which on the paper calls a weight oscillating (Table 1)."""
_UNSEEN: Final = -(2**31)


class DampenedOscillations(Companion):
    """The loss of a network's weights; weight: lambda at the end. ModelError where there are no such weights."""

    def __init__(self, network: Executor, *, weight: float) -> None:
        super().__init__()
        self._layers, self._last, self._weight = _low_layers(network, "dampen_oscillations"), weight, 0.0

    def begin_update(self, done: Fraction, update: int) -> None:
        """Raise lambda."""
        self._weight = self._last * _annealed(done)

    def extra_loss(self, loss: Loss, labels: torch.Tensor, inputs: Given) -> torch.Tensor | None:
        """Of weights that were rounded in this update."""
        parts = [_dampening(layer) for layer in self._layers if self._weight and layer.rounds]
        return self._weight * torch.stack(parts).sum() if parts else None


class FrozenOscillations(Companion):
    """Holds those of a network's weights that oscillate.

    threshold: the frequency above which one is frozen, at the end. ModelError where there are no such weights.
    """

    def __init__(self, network: Executor, *, threshold: float) -> None:
        super().__init__()
        self._layers, self._last = _low_layers(network, "freeze_oscillations"), threshold
        self._threshold = math.inf
        for index, layer in enumerate(self._layers):
            weight = layer.weight.detach()
            channels = weight.shape[output_axis(layer.layer.node)]
            self.register_buffer(f"exponent{index}", torch.full((channels,), _UNSEEN, dtype=torch.int64))
            # The code, and the direction of its last change.
            for name in ("code", "direction"):
                self.register_buffer(f"{name}{index}", torch.zeros_like(weight, dtype=torch.int8))
            for name in ("frequency", "average", "held"):
                self.register_buffer(f"{name}{index}", torch.zeros_like(weight))
            self.register_buffer(f"is_held{index}", torch.zeros_like(weight, dtype=torch.bool))

    def begin_update(self, done: Fraction, update: int) -> None:
        """Lower the threshold."""
        first = max(FIRST_THRESHOLD, self._last)
        self._threshold = first + (self._last - first) * _annealed(done)

    @torch.no_grad()
    def end_update(self) -> None:
        """Look at the codes that were used, freeze, and hold the new weights where the old ones were frozen."""
        for index, layer in enumerate(self._layers):
            if layer.rounds:
                self._look(index, layer)
            is_held = self.get_buffer(f"is_held{index}")
            layer.weight.copy_(torch.where(is_held, self.get_buffer(f"held{index}"), layer.weight))

    def facts(self) -> Mapping[str, JsonValue]:
        """How many weights were looked at, oscillate at last, and are frozen."""
        buffers = [(self.get_buffer(f"frequency{i}"), self.get_buffer(f"is_held{i}")) for i in range(len(self._layers))]
        found: dict[str, JsonValue] = {
            "weights": sum(frequency.numel() for frequency, _ in buffers),
            "oscillate": sum(int((frequency > OSCILLATES).sum()) for frequency, _ in buffers),
            "frozen": sum(int(is_held.sum()) for _, is_held in buffers),
        }
        return {"oscillations": found}

    def _look(self, index: int, layer: WeightedLayer) -> None:
        """Follow the codes of one layer, and freeze."""
        names = ("exponent", "code", "direction", "frequency", "average", "held", "is_held")
        before, old, direction, frequency, average, held, is_held = (self.get_buffer(f"{n}{index}") for n in names)
        exponent, limit = _steps(layer)
        code = torch.ldexp(layer.weight_in_use().detach(), -exponent)
        known = along(before, code, output_axis(layer.layer.node))
        is_same, is_first = known == exponent, known == _UNSEEN
        change = (code - old).sign()
        oscillates = is_same & (change * direction == -1)
        frequency.lerp_(oscillates.to(frequency.dtype), MOMENTUM)
        direction.copy_(torch.where(is_same & (change != 0), change, direction).to(direction.dtype))
        in_step = torch.ldexp(average, torch.where(is_first, 0, known - exponent)).clamp(-limit, limit)
        average.copy_(torch.where(is_first, code, in_step).lerp(code, MOMENTUM))
        old.copy_(code)
        before.copy_(exponent.reshape(-1))
        freezes = (frequency > self._threshold) & ~is_held
        held.copy_(torch.where(freezes, torch.ldexp(average.round(), exponent), held))
        is_held.logical_or_(freezes)


def _low_layers(network: Executor, name: str) -> list[WeightedLayer]:
    found = [
        layer
        for layer in network.weighted()
        if layer.quantizer is not None
        and layer.quantizer.format.holds_floats
        and layer.quantizer.format.bits <= MOST_BITS
    ]
    if not found:
        raise ModelError(f"{name}: no layer has fixed-point weights of {MOST_BITS} bits or fewer, expected some")
    return found


def _annealed(done: Fraction) -> float:
    """From 0 to 1 along half a cosine."""
    return (1 - math.cos(math.pi * done)) / 2


def _steps(layer: WeightedLayer) -> tuple[torch.Tensor, int]:
    """The exponents of the channels that the last forward used, as the weight lies, and the largest code."""
    assert layer.quantizer is not None
    exponent = along(layer.quantizer.exponent, layer.weight, output_axis(layer.layer.node))
    return exponent, layer.quantizer.format.qmax


def _dampening(layer: WeightedLayer) -> torch.Tensor:
    exponent, qmax = _steps(layer)
    limit = torch.ldexp(torch.full_like(exponent, qmax, dtype=layer.weight.dtype), exponent)
    return (layer.weight_in_use().detach() - layer.weight.clamp(-limit, limit)).square().sum()
