"""What a metric is: it is told batches, and gives a number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from qpipe.errors import DataError, ModelError
from qpipe.tasks.task import Task

Array = npt.NDArray[Any]


class Metric(ABC):
    """Of one model on all images so far.

    losses: what it can judge. is_dense: whether each pixel, or each image as a whole; None: both. is_order: whether the
    order of an image's numbers is all that counts, so that fixed point is judged as the integers that it is. rises:
    whether a better network has a larger value, as one of the user's own is taken to.
    """

    losses: ClassVar[frozenset[str]]
    is_dense: ClassVar[bool | None] = None
    is_order: ClassVar[bool] = False
    rises: ClassVar[bool] = True

    def __init__(self, task: Task, name: str) -> None:
        self.task, self.name = task, name

    @abstractmethod
    def add(self, outputs: Array, labels: Array) -> None:
        """Look at a batch: the output that counts `[N, ...]`, and `labels [N, ...]`."""

    @abstractmethod
    def value(self) -> float:
        """Over all batches so far."""

    def also(self) -> dict[str, float | None]:
        """What else it tells, by name."""
        return {}

    # What several of them need:

    def counted(self, labels: Array) -> Array:
        """Which labels count: not the one that is ignored."""
        ignored = self.task.ignore_label
        return np.ones(labels.shape, np.bool_) if ignored is None else labels != ignored

    def classes(self, outputs: Array) -> Array:
        """The class of each image or pixel: what scores highest, the first of equals, or what the network chose."""
        if self.task.is_choice:
            return outputs
        axis = self.task.class_axis if self.task.is_dense else 1
        chosen: Array = (outputs if self.task.is_dense else self.rows(outputs)).argmax(axis)
        return chosen

    def rows(self, outputs: Array) -> Array:
        """`[N, columns]`."""
        if outputs.ndim < 1 or (outputs.ndim > 1 and sum(size != 1 for size in outputs.shape[1:]) > 1):
            raise ModelError(f"{self.name}: output has shape {list(outputs.shape)}, expected [N, classes]")
        return outputs.reshape(len(outputs), -1)

    def labels_of(self, labels: Array, shape: tuple[int, ...]) -> Array:
        """The labels in the shape of what they are compared with."""
        if len(labels) != shape[0]:
            raise DataError(f"{self.name}: {len(labels)} labels for {shape[0]} rows, expected one for each")
        try:
            return labels.reshape(shape)
        except ValueError:
            raise DataError(f"labels have shape {list(labels.shape)}, but {self.name} gives {list(shape)}") from None

    def class_labels(self, labels: Array, shape: tuple[int, ...], columns: int) -> Array:
        """Labels as classes from 0 up, in a shape; DataError for one that there is no class for."""
        if labels.size == np.prod(shape, dtype=int) * columns and columns > 1:
            labels = labels.reshape(*shape, columns).argmax(-1)  # rows with a single 1
        found = self.labels_of(labels, shape).astype(np.int64)
        counted = found[self.counted(found)]
        if counted.size and (counted.min() < 0 or (columns and counted.max() >= columns)):
            raise DataError(
                f"labels go from {counted.min()} to {counted.max()}, but {self.name} has {columns} classes; expected "
                f"labels from 0 to {columns - 1}"
            )
        return found


CLASSIFYING = frozenset({"cross-entropy", "binary", "multi-label"})
