"""What labels are: classes, rows of 0 and 1, maps of classes, or numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

AnyLabels = npt.NDArray[Any]


@dataclass(frozen=True)
class LabelFacts:
    """What is true of all labels that are known before a run: those of the data, or of a stream's first batch.

    shape: of one label, without sizes of 1. is_whole: integers, bools, or floats without a fraction. is_binary: nothing
    but 0 and 1. is_one_hot: rows with a single 1 each. classes: names that the data have, or the largest label and one.
    named: whether the data have names of them.
    """

    shape: tuple[int, ...]
    is_whole: bool
    is_binary: bool
    is_one_hot: bool
    smallest: float
    largest: float
    classes: int
    named: bool = False

    @property
    def words(self) -> str:
        """Such as "integer labels", "rows of 4 numbers, each 0 or 1"."""
        numbers = "0 or 1" if self.is_binary else "whole" if self.is_whole else "with fractions"
        if not self.shape:
            return "labels of 0 and 1" if self.is_binary else "integer labels" if self.is_whole else "fractional labels"
        if len(self.shape) == 1:
            return f"rows of {self.shape[0]} numbers, {'each ' if self.is_binary else ''}{numbers}"
        kind = "maps of classes" if self.is_whole and len(self.shape) == 2 else "arrays of numbers"
        return f"{kind} [{', '.join(map(str, self.shape))}]"


def facts_of(labels: AnyLabels, *, names: int | None = None, ignore: int | None = None) -> LabelFacts:
    """Look at labels `[N, ...]`; names: how many classes the data name; ignore: a label that counts nothing."""
    shape = tuple(size for size in labels.shape[1:] if size != 1)
    counted = labels if ignore is None else labels[labels != ignore]
    if not counted.size:
        return LabelFacts(shape, True, True, False, 0, 0, names or 1, names is not None)
    is_whole = labels.dtype.kind in "iub" or bool((counted == np.round(counted)).all())
    smallest, largest = float(counted.min()), float(counted.max())
    is_binary = is_whole and smallest >= 0 and largest <= 1
    is_one_hot = is_binary and len(shape) == 1 and bool((labels.reshape(len(labels), -1).sum(1) == 1).all())
    classes = names or (int(largest) + 1 if is_whole and largest >= 0 else 0)
    return LabelFacts(shape, is_whole, is_binary, is_one_hot, smallest, largest, classes, names is not None)
