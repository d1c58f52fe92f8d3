"""What trains beside a network and is gone afterwards: it may change training's forward, and add a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

import torch
from pydantic import JsonValue
from torch import nn

from qpipe.train.given import Given

Loss = Callable[[torch.Tensor, torch.Tensor, Given], torch.Tensor]
"""`(answer, labels [N, ...], inputs) -> ()`, the mean over the batch; the answer is what `Executor.answer` gives."""


class Companion(nn.Module):
    """Every method does nothing; override those that are needed.

    Its parameters are trained with the network's, its state is in the checkpoint. Evaluation and the written file are
    the network alone.

    rate: of its own parameters, as a part of the learning rate, and without weight decay; None: they train as the
    network's do.
    """

    rate: float | None = None

    def begin_update(self, done: Fraction, update: int) -> None:
        """Before the forward of an update: what part of the run is done, of 1, and the update's number, from 0."""

    def extra_loss(self, loss: Loss, labels: torch.Tensor, inputs: Given) -> torch.Tensor | None:
        """What is added to the network's own loss, after its forward of the same batch. loss: the network's."""
        return None

    def end_backward(self) -> None:
        """The gradients are there; the weights are still the old ones."""

    def end_update(self) -> None:
        """The weights are the new ones."""

    def end_epoch(self, number: int) -> None:
        """The epoch, from 1, is over, and not in a checkpoint yet."""

    def end_training(self) -> bool:
        """All updates are done, or were before this process began; whether this gave the network other weights, for
        which statistics are estimated anew.
        """
        return False

    def facts(self) -> Mapping[str, JsonValue]:
        """What the record of the run says of it, when it is over."""
        return {}

    def trouble(self) -> str | None:
        """Why the gradients of this update can't be applied, in words, such as a tensor that is no number."""
        return None
