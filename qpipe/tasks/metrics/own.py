"""A metric of the user's own: `(outputs, labels) -> number`, over all images at once."""

from __future__ import annotations

import numpy as np

from qpipe.errors import QpipeError, user_code
from qpipe.tasks.metrics.base import Array, Metric
from qpipe.tasks.task import Task, name_of


class Own(Metric):
    """It keeps what the network gave, because nobody knows how the function adds up."""

    losses = frozenset()

    def __init__(self, task: Task, name: str) -> None:
        super().__init__(task, name)
        self._outputs: list[Array] = []
        self._labels: list[Array] = []

    def add(self, outputs: Array, labels: Array) -> None:
        """Keep."""
        self._outputs.append(outputs)
        self._labels.append(labels)

    def value(self) -> float:
        """What the function gives; QpipeError where it raises, or gives no number."""
        function = self.task.metric
        assert callable(function)
        what = f"metric '{name_of(function)}'"
        with user_code(QpipeError, f"{what}: raised", expected="a number"):
            found = float(function(np.concatenate(self._outputs), np.concatenate(self._labels)))
        if not np.isfinite(found):
            raise QpipeError(f"{what}: gave {found}, expected a finite number")
        return found
