"""The batches that calibration sees, as often as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from qpipe import progress
from qpipe.data import Augment, Source
from qpipe.data.inputs import Inputs, count_of, joined, part_of


@dataclass
class CalibrationInputs:
    """The first batches of a shuffled epoch, as they are or augmented; each `iter` gives the same ones.

    A stream may not begin again, or with other data, so its inputs are kept from the first time on.
    """

    source: Source
    batches: int
    batch_size: int
    seed: int
    augment: Augment | None = None
    _kept: list[Inputs] | None = field(default=None, init=False)

    def __iter__(self) -> Iterator[Inputs]:
        """float32 `[N, C, H, W]`, or arrays by the names of several inputs."""
        if self.source.size is None and self._kept is None:
            self._kept = list(self._read())
        batches = self._read() if self._kept is None else self._kept
        total = self.source.n_batches(self.batch_size, limit=self.batches * self.batch_size)
        return progress.track(batches, "calibrating", total)

    def first(self, count: int) -> Inputs:
        """The first samples of all batches, at most so many; none where there are none."""
        count = min(count, self.batches * self.batch_size)
        batches = self._read(count) if self.source.size is not None else iter(self)
        found: list[Inputs] = []
        while sum(map(count_of, found)) < count and (batch := next(batches, None)) is not None:
            found.append(batch)
        return part_of(joined(found), slice(count)) if found else np.zeros((0, 0), np.float32)

    def _read(self, count: int | None = None) -> Iterator[Inputs]:
        is_shuffled, limit = self.source.size is not None, count or self.batches * self.batch_size
        stream = self.source.batches(
            self.batch_size, shuffle=is_shuffled, seed=self.seed, limit=limit, augment=self.augment
        )
        return (batch.inputs for batch in stream)
