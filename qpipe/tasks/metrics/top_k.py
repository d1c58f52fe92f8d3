"""Top-1 and top-5: whether an image's class is the network's first choice, or one of the first five."""

from __future__ import annotations

from typing import Final

import numpy as np

from qpipe.tasks.metrics.base import Array, Metric
from qpipe.tasks.task import Task

TOP: Final = 5


class Top1(Metric):
    """Source: the usual figures of ImageNet, Russakovsky et al. 2015, section 4."""

    losses = frozenset({"cross-entropy"})
    is_dense = False
    is_order = True

    def __init__(self, task: Task, name: str) -> None:
        super().__init__(task, name)
        self.top1, self.top5, self.count, self.columns = 0, 0, 0, 0

    def add(self, outputs: Array, labels: Array) -> None:
        """Count; of equal scores the lower class comes first, as in argmax."""
        rows = self.rows(outputs)
        self.count += len(rows)
        if self.task.is_choice:
            hits = rows == self.class_labels(labels, (len(rows),), 0)[:, None]
            self.top1 += int(hits[:, 0].sum())
            self.top5 += int(hits[:, :TOP].any(1).sum())
            # A TopK tells more than a first choice.
            self.columns = TOP + 1 if rows.shape[1] >= TOP else 0
            return
        self.columns = rows.shape[1]
        found = self.class_labels(labels, (len(rows),), self.columns)
        own = np.take_along_axis(rows, found[:, None], axis=1)
        # A rank without sorting.
        earlier = np.arange(self.columns)[None, :] < found[:, None]
        rank = ((rows > own) | ((rows == own) & earlier)).sum(axis=1)
        self.top1 += int((rank == 0).sum())
        self.top5 += int((rank < TOP).sum())

    def value(self) -> float:
        """Top-1, of 1."""
        return self.top1 / self.count

    def also(self) -> dict[str, float | None]:
        """Both; top-5 where there are more than five classes."""
        return {"top1": self.top1 / self.count, "top5": self.top5 / self.count if self.columns > TOP else None}


class Top5(Top1):
    """The same, judged by the first five."""

    def value(self) -> float:
        """Top-5, of 1."""
        return self.top5 / self.count
