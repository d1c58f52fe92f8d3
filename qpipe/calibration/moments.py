"""Mean and variance of each channel of a tensor over the calibration batches, in float64 and constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qpipe.calibration.pieces import FloatArray, Pieces
from qpipe.calibration.shard import ALONE, Float64Array, Shard
from qpipe.errors import DataError, ModelError
from qpipe.processes import usable_cores


@dataclass(frozen=True)
class Moments:
    """Of `count` values for each channel: their mean, and the sum of their squared distances from it, `[C]`."""

    count: float
    mean: Float64Array
    squares: Float64Array

    @property
    def variance(self) -> Float64Array:
        """The mean squared distance, as batch normalization has it."""
        return self.squares / self.count

    def merged(self, other: Moments) -> Moments:
        """The moments of both sets of values together. Source: Chan, Golub and LeVeque 1979, equations 2.1."""
        count = self.count + other.count
        if not count:
            return self
        distance = other.mean - self.mean
        share = other.count / count
        return Moments(
            count,
            self.mean + distance * share,
            self.squares + other.squares + distance**2 * (self.count * share),
        )


def no_moments(channels: int) -> Moments:
    """Of no value yet."""
    return Moments(0.0, np.zeros(channels), np.zeros(channels))


def moments(tensor: FloatArray) -> Moments:
    """Of a tensor `[N, C, ...]`; NaN where a value is not finite."""
    flat = tensor.reshape(len(tensor), tensor.shape[1], -1)
    count = flat.shape[0] * flat.shape[2]
    with np.errstate(invalid="ignore"):
        mean = flat.sum(axis=(0, 2), dtype=np.float64) / count
        # One image at a time: float64 copies of a whole piece would be its largest tensors.
        squares = sum((np.square(image - mean[:, None]).sum(axis=1) for image in flat), np.zeros(len(mean)))
    return Moments(float(count), mean, squares)


def measure_moments(
    model: ir.Model, channels: Mapping[str, int], batches: Iterable[FloatArray], *, shard: Shard = ALONE
) -> dict[str, Moments]:
    """The moments of each named value over batches of inputs `[N, C, H, W]`.

    Args:
        model: the float network, one input.
        channels: value name -> its number of channels, which lie on axis 1.
        batches: float32 inputs.
        shard: which of the batches this process runs; the moments are those of all batches in every process.
    """
    pieces = Pieces(model, list(channels))
    width = sum(2 * count + 1 for count in channels.values())
    found = {name: no_moments(count) for name, count in channels.items()}
    with ThreadPoolExecutor(usable_cores()) as pool:
        rows = (_row(_batch_moments(pieces, channels, batch, pool)) for batch in shard.share(batches))
        for row in shard.in_order(rows, width):
            found = {name: found[name].merged(own) for name, own in _read(row, channels).items()}
    if not all(merged.count for merged in found.values()):
        raise DataError("calibration data: no batch, expected at least one")
    return found


def _batch_moments(
    pieces: Pieces, channels: Mapping[str, int], batch: FloatArray, pool: ThreadPoolExecutor
) -> dict[str, Moments]:
    """One batch's; its pieces are merged in order."""
    found = {name: no_moments(count) for name, count in channels.items()}
    for tensors, _ in pieces.run(batch):
        # Sums release the interpreter's lock.
        for name, own in zip(channels, pool.map(moments, (tensors[name] for name in channels)), strict=True):
            if not np.isfinite(own.squares).all():
                raise ModelError(f"tensor '{name}' overflows float32 on the calibration data, expected finite values")
            found[name] = found[name].merged(own)
    return found


def _row(found: Mapping[str, Moments]) -> Float64Array:
    """The moments of all values as one row of numbers."""
    return np.concatenate([np.concatenate(([one.count], one.mean, one.squares)) for one in found.values()])


def _read(row: Float64Array, channels: Mapping[str, int]) -> dict[str, Moments]:
    """What `_row` wrote."""
    found, start = {}, 0
    for name, count in channels.items():
        mean, squares = row[start + 1 : start + 1 + 2 * count].reshape(2, count)
        found[name] = Moments(float(row[start]), mean, squares)
        start += 1 + 2 * count
    return found
