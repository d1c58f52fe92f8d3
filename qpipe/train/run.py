"""Where a run stands, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Judged:
    """The task's metric of the network that is written, and of the low-bit forward where that is another one."""

    metric: float | None
    low_bit: float | None = None


@dataclass(frozen=True)
class Epoch:
    """One epoch: number (from 1), mean loss per image, accuracy on the training images as they were seen, of 1.

    accuracy: None of a task that knows no right answers. lr and batch_size: at its start, the latter of an update.
    test_accuracy: the task's metric, None where it was not counted. low_bit_accuracy: the same as `Judged` has it.
    """

    number: int
    loss: float
    accuracy: float | None
    lr: float
    batch_size: int
    test_accuracy: float | None = None
    low_bit_accuracy: float | None = None


@dataclass
class RunState:
    """Where a run stands: the epochs that are done, the updates so far, and sums over the epoch that runs.

    batches: real ones that this epoch has seen. loss: the sum over its images.
    """

    epochs: list[Epoch] = field(default_factory=list)
    updates: int = 0
    batches: int = 0
    loss: float = 0.0
    correct: float = 0
    images: int = 0

    @property
    def number(self) -> int:
        """The epoch that runs, from 1."""
        return len(self.epochs) + 1

    def close(self, epoch: Epoch) -> None:
        """Put a finished epoch to the others, and start to sum anew."""
        self.epochs.append(epoch)
        self.batches, self.loss, self.correct, self.images = 0, 0.0, 0, 0
