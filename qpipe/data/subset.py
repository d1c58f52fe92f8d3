"""Some of the samples of a source, and a part that is held out of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from qpipe.data.draws import HOLD_OUT, generator
from qpipe.data.source import Batch, Indices, Reading, Source
from qpipe.errors import DataError


class Subset(Source):
    """The samples of another source at these indices `[n]`, each augmented as it would be among all."""

    def __init__(self, source: Source, indices: Indices) -> None:
        self._source, self._indices = source, indices
        super().__init__(
            source.info,
            image_shape=source.image_shape,
            has_pixels=source.has_pixels,
            size=len(indices),
            labels=None if source.labels is None else source.labels[indices],
            first_labels=source.first_labels,
            sample_shapes=source.sample_shapes,
        )

    def _read(self, reading: Reading) -> Iterator[Batch]:
        return self._source._read(replace(reading, among=self._indices))


def hold_out(source: Source, part: float, seed: int) -> tuple[Source, Source]:
    """The rest of the samples, and the part of them, of 1, that is held out: drawn by the seed, in their own order.

    DataError for a stream, and where one of both would be empty.
    """
    if source.size is None:
        raise DataError(f"hold_out: {source.name} is a stream, expected data whose samples are known")
    count = round(part * source.size)
    if not 0 < count < source.size:
        raise DataError(f"hold_out: {part:g} of {source.size} samples are {count}, expected some, and some others")
    order = generator(seed, 0, HOLD_OUT).permutation(source.size)
    return Subset(source, np.sort(order[count:])), Subset(source, np.sort(order[:count]))
