"""What a run is told, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass

from qpipe.data import Augment


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """One run. lr is constant; momentum and weight_decay are those of the float training."""

    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int
    seed: int
    augment: Augment | None
    batch_norm: str = "batch"


@dataclass(frozen=True)
class Epoch:
    """Number (from 1), mean loss per image, and accuracy on the training images as they were seen, of 1."""

    number: int
    loss: float
    accuracy: float
