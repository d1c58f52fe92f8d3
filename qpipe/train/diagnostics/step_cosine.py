"""How much of SGD's step the quantized weights take: the noise that rounding adds to training.

At update t the float weights move by `w_t - w_(t-1)`, the quantized ones by `Q(w_t) - Q(w_(t-1))`: most of them not at
all, a few by a whole step of their grid. The angle is that between the first and the moving average (smoothing 0.9) of
the second; a float network without noise would have a cosine near 1.

Source: FAQ, section 4.7 and Figure 1, which plots "the cosine of the average angular error" of each layer after several
hundred iterations. Here the average is over updates 301 to 600, or over the last half of a shorter run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from qpipe.train.diagnostics.measurement import Measurement
from qpipe.train.executor import Executor

SMOOTHING = 0.9
UPDATES = 600
"""The first updates are looked at, and the last half of them counts: what comes later costs nothing."""


class StepCosine(Measurement):
    """The angle of each weighted layer at each of the first `updates` updates."""

    def __init__(self, updates: int = UPDATES) -> None:
        self.updates = updates
        self._angles: list[torch.Tensor] = []
        self._average: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._on_grid: list[torch.Tensor] = []

    def before_update(self, executor: Executor, step: int) -> None:
        """Keep the weights as they are before the step."""
        if step > self.updates:
            return
        self._values = [module.weight.detach().clone() for module in executor.weighted()]
        self._on_grid = self._on_grid or _on_grid(executor)

    def after_update(self, executor: Executor, step: int) -> None:
        """Measure the step that was asked for against those that were taken."""
        if step > self.updates:
            return
        modules = list(executor.weighted())
        asked = [module.weight.detach() - values for module, values in zip(modules, self._values, strict=True)]
        on_grid = _on_grid(executor)
        taken = [now - before for now, before in zip(on_grid, self._on_grid, strict=True)]
        average = self._average or [torch.zeros_like(step_taken) for step_taken in taken]
        self._average = [SMOOTHING * m.to(d.device) + (1 - SMOOTHING) * d for m, d in zip(average, taken, strict=True)]
        angles = [angle(a, m) for a, m in zip(asked, self._average, strict=True)]
        self._angles.append(torch.stack(angles).cpu())
        self._values, self._on_grid = [], on_grid
        if step == self.updates:
            self._average, self._on_grid = [], []

    def state(self) -> dict[str, torch.Tensor]:
        """The angles so far, and the moving averages while they go on."""
        if not self._angles:
            return {}
        averages = {f"average.{i}": tensor for i, tensor in enumerate(self._average)}
        return {"angles": torch.stack(self._angles), **averages}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put back what `state` gave; the quantized weights are computed anew."""
        self._angles = list(state["angles"]) if "angles" in state else []
        self._average = [state[f"average.{i}"] for i in range(len(state) - 1)]
        self._on_grid = []

    def result(self) -> dict[str, Any]:
        """`step_cosine` of each weighted layer, and the first and last update that it is the average of."""
        count = len(self._angles)
        if not count:
            return {"step_cosine": None, "step_updates": None}
        mean = torch.stack(self._angles[count // 2 :]).mean(0)
        return {"step_cosine": mean.cos().tolist(), "step_updates": [count // 2 + 1, count]}


def _on_grid(executor: Executor) -> list[torch.Tensor]:
    """Each layer's weight on its grid as it is now."""
    return [module.quantized_weight().detach() for module in executor.weighted()]


def angle(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The angle between two tensors as vectors, float64, of 0 to pi; a right one where either is zero."""
    a, b = a.double().flatten(), b.double().flatten()
    length = a.norm() * b.norm()
    cosine = torch.where(length > 0, a.dot(b) / length.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    return cosine.clamp(-1, 1).acos()
