"""Mean and variance of each channel of a tensor over the calibration batches, in float64 and constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qpipe.calibration.percentile import FloatArray
from qpipe.calibration.pieces import Pieces
from qpipe.calibration.shard import ALONE, Float64Array, Shard
from qpipe.errors import DataError, ModelError
from qpipe.processes import usable_cores


@dataclass(frozen=True)
class Moments:
    """How many values each channel has, their mean, and the sum of their squared distances from it: `[C]` each."""

    count: Float64Array
    mean: Float64Array
    squares: Float64Array

    @property
    def variance(self) -> Float64Array:
        """The mean squared distance, as batch normalization has it."""
        return self.squares / self.count

    @property
    def table(self) -> Float64Array:
        """All three, `[3, C]`."""
        return np.stack([self.count, self.mean, self.squares])

    def merged(self, other: Moments) -> Moments:
        """The moments of both sets of values together. Source: Chan, Golub and LeVeque 1979, equations 2.1."""
        count = self.count + other.count
        distance = other.mean - self.mean
        share = other.count / np.maximum(count, 1)
        return Moments(
            count,
            self.mean + distance * share,
            self.squares + other.squares + distance**2 * (self.count * share),
        )


def no_moments(channels: int) -> Moments:
    """Of no value yet."""
    return Moments(*np.zeros((3, channels)))


def moments(tensor: FloatArray) -> Moments:
    """Of a tensor `[N, C, ...]`; NaN where a value is not finite."""
    flat = tensor.reshape(len(tensor), tensor.shape[1], -1)
    count = flat.shape[0] * flat.shape[2]
    with np.errstate(invalid="ignore"):
        mean = flat.sum(axis=(0, 2), dtype=np.float64) / count
        # One image at a time: float64 copies of a whole piece would be its largest tensors.
        squares = sum((np.square(image - mean[:, None]).sum(axis=1) for image in flat), np.zeros(len(mean)))
    return Moments(np.full(len(mean), float(count)), mean, squares)


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
    # The channels of all values side by side.
    ends = np.cumsum(list(channels.values()))
    found = no_moments(ends[-1])
    with ThreadPoolExecutor(usable_cores()) as pool:
        rows = (
            _batch_moments(pieces, list(channels), ends[-1], batch, pool).table.reshape(-1)
            for batch in shard.share(batches)
        )
        for row in shard.in_order(rows, 3 * ends[-1]):
            found = found.merged(Moments(*row.reshape(3, -1)))
    if not found.count.all():
        raise DataError("calibration data: no batch, expected at least one")
    tables = np.split(found.table, ends[:-1], axis=1)
    return {name: Moments(*table) for name, table in zip(channels, tables, strict=True)}


def _batch_moments(
    pieces: Pieces, names: Sequence[str], width: int, batch: FloatArray, pool: ThreadPoolExecutor
) -> Moments:
    """One batch's; its pieces are merged in order."""
    found = no_moments(width)
    for tensors, _ in pieces.run(batch):
        # Sums release the interpreter's lock.
        piece = list(pool.map(moments, (tensors[name] for name in names)))
        for name, own in zip(names, piece, strict=True):
            if not np.isfinite(own.squares).all():
                raise ModelError(f"tensor '{name}' overflows float32 on the calibration data, expected finite values")
        found = found.merged(Moments(*np.concatenate([own.table for own in piece], axis=1)))
    return found
