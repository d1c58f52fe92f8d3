"""Accuracy: the share of right answers, of images, of each label of an image, or of pixels."""

from __future__ import annotations

from qpipe.tasks.metrics.base import CLASSIFYING, Array, Metric
from qpipe.tasks.task import Task


class Accuracy(Metric):
    """Right answers over all answers."""

    losses = CLASSIFYING

    def __init__(self, task: Task, name: str) -> None:
        super().__init__(task, name)
        self.right, self.count = 0, 0

    def add(self, outputs: Array, labels: Array) -> None:
        """Count answers; pixels of the ignored label are none."""
        if self.task.loss == "cross-entropy":
            answers = self.classes(outputs)
            columns = 0 if self.task.is_choice else self.task.columns
            wanted = self.class_labels(labels, answers.shape, columns)
        else:
            answers = outputs > self.task.threshold
            wanted = self.labels_of(labels, outputs.shape)
        counted = self.counted(wanted)
        self.right += int(((answers == wanted) & counted).sum())
        self.count += int(counted.sum())

    def value(self) -> float:
        """Of 1."""
        return self.right / max(self.count, 1)
