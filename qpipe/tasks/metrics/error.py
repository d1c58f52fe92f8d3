"""Mean squared error, and the peak signal-to-noise ratio that it makes."""

from __future__ import annotations

import math

import numpy as np

from qpipe.tasks.metrics.base import Array, Metric
from qpipe.tasks.task import Task


class MeanSquares(Metric):
    """Over all numbers of all images."""

    losses = frozenset({"mse"})
    rises = False

    def __init__(self, task: Task, name: str) -> None:
        super().__init__(task, name)
        self.squares, self.count, self.peak = 0.0, 0, 0.0

    def add(self, outputs: Array, labels: Array) -> None:
        """Sum up squares."""
        wanted = self.labels_of(labels, outputs.shape).astype(np.float64)
        self.squares += float(((outputs.astype(np.float64) - wanted) ** 2).sum())
        self.count += wanted.size
        self.peak = max(self.peak, float(wanted.max(initial=0.0)))

    def value(self) -> float:
        """In the square of the labels' unit."""
        return self.squares / max(self.count, 1)


class Psnr(MeanSquares):
    """`10 log10(peak² / MSE)` in dB; the peak is 255 where labels exceed 1, else 1."""

    rises = True

    def value(self) -> float:
        """In dB; infinite without an error."""
        error = super().value()
        peak = 255.0 if self.peak > 1 else 1.0
        return 10 * math.log10(peak**2 / error) if error else math.inf
