"""How far training moved the weights: the cosine between each neuron's weights before and after.

A neuron is an output channel of a weighted layer. "Before" is the file that training starts from: the pretrained
network, or the random one of a run from scratch.

Source: FAQ, section 4.8 and Figure 2: the mean over all neurons is 0.994 from pretrained, 0.023 from scratch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from qpipe.ops.weight_layout import to_rows
from qpipe.train.diagnostics.measurement import Measurement
from qpipe.train.executor import Executor

BINS = 200
"""Of the histogram over -1 to 1."""


class NeuronCosine(Measurement):
    """Keeps the weights that training starts from, and compares at its end."""

    def __init__(self) -> None:
        self._initial: list[torch.Tensor] = []
        self._cosines: list[torch.Tensor] = []

    def on_start(self, executor: Executor) -> None:
        """Keep the initial weights, unless a checkpoint brought them."""
        self._initial = self._initial or [rows.clone() for rows in _rows(executor)]

    def on_end(self, executor: Executor) -> None:
        """Compare."""
        pairs = zip(self._initial, _rows(executor), strict=True)
        self._cosines = [row_cosines(before.to(after.device), after) for before, after in pairs]

    def state(self) -> dict[str, torch.Tensor]:
        """The initial weights."""
        return {f"initial.{i}": rows for i, rows in enumerate(self._initial)}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put back what `state` gave."""
        self._initial = [state[f"initial.{i}"] for i in range(len(state))]

    def result(self) -> dict[str, Any]:
        """`neuron_cosine`: mean and deviation over all neurons, the mean of each layer, and a histogram from -1 to 1.

        Neurons whose weights are all zero have no direction, and are left out.
        """
        cosines = [layer[~layer.isnan()].cpu() for layer in self._cosines]
        neurons = torch.cat(cosines) if cosines else torch.empty(0)
        if not len(neurons):
            return {"neuron_cosine": None}
        counts = torch.histc(neurons, BINS, -1.0, 1.0)
        return {
            "neuron_cosine": {
                "mean": neurons.mean().item(),
                "std": neurons.std(correction=0).item(),
                "layers": [layer.mean().item() if len(layer) else None for layer in cosines],
                "histogram": [int(count) for count in counts],
            }
        }


def row_cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The cosine between rows of `[C, K]`, float64 `[C]`; NaN where one is zero."""
    a, b = a.double(), b.double()
    cosine: torch.Tensor = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return cosine.clamp(-1, 1)


def _rows(executor: Executor) -> list[torch.Tensor]:
    # In one layout, so that sums over what a checkpoint brought back are the same to the bit.
    return [to_rows(step.layer.node, step.module.weight.detach()).contiguous() for step in executor.products()]
