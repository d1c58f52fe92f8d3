"""The batches that calibration sees, as often as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from qpipe import progress
from qpipe.calibration.percentile import FloatArray
from qpipe.data import Augment, Source


class CalibrationInputs:
    """The first batches of a shuffled epoch, as they are or augmented; each `iter` gives the same ones.

    A stream may not begin again, or with other data, so its inputs are kept from the first time on.
    """

    def __init__(
        self, source: Source, *, batches: int, batch_size: int, seed: int, augment: Augment | None = None
    ) -> None:
        self._source = source
        self._batch_size = batch_size
        self._limit = batches * batch_size
        self._seed = seed
        self._augment = augment
        self._kept: list[FloatArray] | None = None

    def __iter__(self) -> Iterator[FloatArray]:
        """float32 `[N, C, H, W]`."""
        if self._source.size is None and self._kept is None:
            self._kept = list(self._read())
        batches = self._read() if self._kept is None else self._kept
        total = self._source.n_batches(self._batch_size, limit=self._limit)
        return progress.track(batches, "calibrating", total)

    def _read(self) -> Iterator[FloatArray]:
        stream = self._source.batches(
            self._batch_size,
            shuffle=self._source.size is not None,
            seed=self._seed,
            limit=self._limit,
            augment=self._augment,
        )
        return (batch.inputs for batch in stream)
