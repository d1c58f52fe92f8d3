"""What may look on while a network trains; it never changes a step."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from qpipe.train.executor import Executor


class Observer:
    """Every method does nothing; override those that are needed. `step` counts updates of the weights, from 1.

    What an observer gathers goes into the checkpoint by `state`, so that a run that was stopped loses none of it.
    """

    def on_start(self, executor: Executor) -> None:
        """Before the first update of this process; after `load_state` where a run goes on."""

    def before_update(self, executor: Executor, step: int) -> None:
        """The gradients are there, the weights are still the old ones."""

    def after_update(self, executor: Executor, step: int) -> None:
        """The weights are the new ones."""

    def on_end(self, executor: Executor) -> None:
        """After the last update."""

    def state(self) -> dict[str, torch.Tensor]:
        """What the checkpoint keeps, by name."""
        return {}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put back what `state` gave."""
