"""What F1 and the mean IoU share: for each class, how often it was there, was said, and was both."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qpipe.tasks.metrics.base import Array, Metric
from qpipe.tasks.task import Task


class Confusion(Metric):
    """Counts of each class; of yes-or-no answers each column is a class that is there or not."""

    def __init__(self, task: Task, name: str) -> None:
        super().__init__(task, name)
        size = max(task.columns, 2 if task.loss == "binary" else 1)
        self.both, self.said, self.there = (np.zeros(size, np.int64) for _ in range(3))

    def add(self, outputs: Array, labels: Array) -> None:
        """Count."""
        if self.task.loss == "multi-label":
            answers = self.rows(outputs) > self.task.threshold
            wanted = self.labels_of(labels, answers.shape) > 0
            self.both += (answers & wanted).sum(0)
            self.said += answers.sum(0)
            self.there += wanted.sum(0)
            return
        if self.task.loss == "binary":
            chosen = (outputs > self.task.threshold).astype(np.int64)
        else:
            chosen = self.classes(outputs).astype(np.int64)
        wanted = self.class_labels(labels, chosen.shape, len(self.both) if not self.task.is_choice else 0)
        counted = self.counted(wanted)
        chosen, wanted = chosen[counted], wanted[counted]
        self._grow(int(max(chosen.max(initial=0), wanted.max(initial=0))) + 1)
        size = len(self.both)
        self.both += np.bincount(wanted[chosen == wanted], minlength=size)
        self.said += np.bincount(chosen, minlength=size)
        self.there += np.bincount(wanted, minlength=size)

    def _grow(self, size: int) -> None:
        """A network that chooses by itself may know of more classes than the labels."""
        more = max(size - len(self.both), 0)
        self.both, self.said, self.there = (np.pad(counts, (0, more)) for counts in (self.both, self.said, self.there))

    def shares(self, doubled: int) -> npt.NDArray[np.float64]:
        """`doubled * both / (said + there - both * (2 - doubled))` of each class that occurs."""
        either = self.said + self.there - self.both * (2 - doubled)
        occurs = either > 0
        return doubled * self.both[occurs] / either[occurs]
