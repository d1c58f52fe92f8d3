"""The paper's diagnostics of a training run, as one observer whose result is what `qpipe report` draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from qpipe.data import Source
from qpipe.errors import DataError
from qpipe.train.diagnostics.neuron_cosine import NeuronCosine
from qpipe.train.diagnostics.noise_ratio import activation_noise, weight_noise
from qpipe.train.diagnostics.step_cosine import StepCosine
from qpipe.train.executor import Executor
from qpipe.train.observer import Observer

IMAGES, BATCH_SIZE = 256, 64
"""How many images the activations' noise is measured on, and how many at once."""


def diagnostic_images(source: Source) -> list[torch.Tensor]:
    """The first images of a source, as they are, in a few batches."""
    batches = [torch.from_numpy(batch.inputs) for batch in source.batches(BATCH_SIZE, limit=IMAGES)]
    if not batches:
        raise DataError(f"{source.name}: no images to measure the activations' noise on")
    return batches


class Diagnostics(Observer):
    """Cosines of steps and of neurons, and the signal-to-quantization-noise ratios before and after.

    Args:
        inputs: batches of images, on which the activations' noise is measured.
    """

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        self._inputs = inputs
        self._steps, self._neurons = StepCosine(), NeuronCosine()
        self._parts: dict[str, Observer] = {"steps": self._steps, "neurons": self._neurons}
        self._before: dict[str, torch.Tensor] = {}
        self._after: dict[str, torch.Tensor] = {}
        self._facts: dict[str, Any] = {}

    def on_start(self, executor: Executor) -> None:
        """Measure the noise before training, unless a checkpoint brought it."""
        self._before = self._before or self._noise(executor)
        for part in self._parts.values():
            part.on_start(executor)

    def before_update(self, executor: Executor, step: int) -> None:
        """Hand on."""
        for part in self._parts.values():
            part.before_update(executor, step)

    def after_update(self, executor: Executor, step: int) -> None:
        """Hand on."""
        for part in self._parts.values():
            part.after_update(executor, step)

    def on_end(self, executor: Executor) -> None:
        """Measure the noise after training, and note which layers and widths the network has."""
        self._after = self._noise(executor)
        modules, quantizers = list(executor.weighted()), list(executor.named_quantizers())
        self._facts = {
            "layers": [module.layer.name for module in modules],
            "weight_bits": [None if module.quantizer is None else module.quantizer.format.bits for module in modules],
            "activations": [name for name, _ in quantizers],
            "activation_bits": [quantizer.bits for _, quantizer in quantizers],
        }
        for part in self._parts.values():
            part.on_end(executor)

    def state(self) -> dict[str, torch.Tensor]:
        """What all parts keep, and the noise before training."""
        kept = {f"noise.{name}": tensor for name, tensor in self._before.items()}
        for prefix, part in self._parts.items():
            kept |= {f"{prefix}.{name}": tensor for name, tensor in part.state().items()}
        return kept

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put back what `state` gave."""
        self._before = _under("noise.", state)
        for prefix, part in self._parts.items():
            part.load_state(_under(f"{prefix}.", state))

    def result(self) -> dict[str, Any]:
        """Plain values, after `on_end`: those of a layer in the order of `layers`, of `activations`; None where a
        ratio is infinite, because the values lie on the grid already.
        """
        return {
            **self._facts,
            **self._steps.result(),
            **self._neurons.result(),
            "sqnr_before": _finite(self._before),
            "sqnr_after": _finite(self._after),
        }

    def _noise(self, executor: Executor) -> dict[str, torch.Tensor]:
        return {"weight": weight_noise(executor), "activation": activation_noise(executor, self._inputs)}


def _under(prefix: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _finite(noise: Mapping[str, torch.Tensor]) -> dict[str, list[float | None]]:
    return {
        name: [ratio if math.isfinite(ratio) else None for ratio in ratios.tolist()] for name, ratios in noise.items()
    }
