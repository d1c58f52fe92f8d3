"""The maximum over batches of a percentile: exact, streaming, and no histogram.

The 99.99th percentile of N values needs only the largest N / 10,000 of them, and of a later batch only those that
exceed what earlier batches gave. So one comparison a value is all that most values cost.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

_SLACK = 4  # candidates kept, in units of k, before the list is cut back to the largest k


def rank_from_top(count: int, percentile: float) -> int:
    """k such that the k-th largest of `count` values is the percentile (nearest rank, numpy's `inverted_cdf`).

    The percentile is the decimal number that it prints as: 99.99 is 9,999 of 10,000, whatever the float holds.
    """
    return count - max(math.ceil(count * Fraction(str(percentile)) / 100), 1) + 1


class RunningPercentile:
    """`max over batches of percentile(batch)` of one tensor whose batches arrive in pieces.

    Memory holds a few times N / 10,000 values, N being the values of one whole batch. Merging with another one's
    `value` is a maximum, so workers can share the batches between them.

    Args:
        percentile: in (0, 100].
        magnitude: whether the percentile is of `|x|` (a signed tensor's); `saw_negative` then says if a value was.

    `largest` is the largest value of all batches, or of all that are positive; it is infinite where one is.
    """

    def __init__(self, percentile: float, *, magnitude: bool = False) -> None:
        self.value = 0.0
        self.saw_negative = False
        self.largest = 0.0
        self._percentile = percentile
        self._magnitude = magnitude
        self._rank = 0
        self._threshold = 0.0
        self._candidates: list[FloatArray] = []
        self._held = 0

    def begin(self, count: int) -> None:
        """Start a batch of `count` values in all."""
        self._rank = rank_from_top(count, self._percentile)
        self._threshold = self.value
        self._candidates, self._held = [], 0

    def update(self, piece: FloatArray) -> None:
        """Take a piece of the batch, of any shape."""
        flat = piece.reshape(-1)
        self._take(flat[flat > self._threshold])
        if self._magnitude:
            self.saw_negative = self.saw_negative or bool(flat.min(initial=0) < 0)
            self._take(-flat[flat < -self._threshold])
        if self._held > _SLACK * self._rank:
            self._cut()

    def end(self) -> None:
        """Close the batch: its percentile counts if it exceeds the earlier ones."""
        if self._held >= self._rank:
            self._cut()
            self.value = max(self.value, self._threshold)
        self._candidates, self._held = [], 0

    def _take(self, values: FloatArray) -> None:
        if values.size:
            # No value that is larger than all before is below the threshold.
            self.largest = max(self.largest, float(values.max()))
            self._candidates.append(values)
            self._held += values.size

    def _cut(self) -> None:
        """Keep the largest k; the k-th is a bound that no later candidate may be below."""
        together = np.concatenate(self._candidates)
        kept = np.partition(together, together.size - self._rank)[together.size - self._rank :]
        self._candidates, self._held, self._threshold = [kept], kept.size, float(kept[0])
