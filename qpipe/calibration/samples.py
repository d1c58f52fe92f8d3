"""Values of each tensor that some samples give: a few thousand drawn evenly, and all beyond a range.

Few samples don't have the largest values that others will have. How far those go beyond is judged by how the samples'
sizes differ: where all are alike not at all, where some are louder or brighter than others by a lot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qpipe.calibration.percentile import FloatArray
from qpipe.calibration.pieces import Pieces
from qpipe.data.inputs import Inputs, count_of

DEVIATIONS = 2.0
"""Of the logarithms of samples' sizes: one of 44 is beyond."""
FEW = 10.0
"""So many deviations more, over the number of samples, which say little of their deviation where they are few."""
ALONE = math.sqrt(2)
"""By what others exceed a single sample, of which nothing is known."""
MOST = 4.0
"""By what others are taken to exceed any samples."""
BANDWIDTH = 0.5
"""Of a kernel over the logarithms of samples' sizes, in parts of `deviation * count**-0.2`; chosen by measurement."""
_SMALLEST = 2.0**-6  # of the largest size: of a sample without any signal its logarithm says nothing
_LOOKED_AT = 2**12  # values of a sample that its size is taken of


@dataclass
class Sample:
    """Of one tensor: how many values it has, some that are drawn from those within a range, and all beyond it.

    low, high: the farthest on either side of 0. sizes: of each sample, the magnitude that a thousandth of its values
    exceeds, or its largest.
    """

    count: int = 0
    low: float = 0.0
    high: float = 0.0
    drawn: list[FloatArray] = field(default_factory=list)
    beyond: list[FloatArray] = field(default_factory=list)
    sizes: list[FloatArray] = field(default_factory=list)

    @property
    def within(self) -> FloatArray:
        """The values that are drawn, of magnitude up to the range."""
        return np.concatenate(self.drawn)

    @property
    def outside(self) -> FloatArray:
        """All values of a larger magnitude."""
        return np.concatenate(self.beyond)

    @property
    def headroom(self) -> float:
        """By what other samples are taken to exceed the largest of these, as if logarithms of sizes were normal."""
        if (found := self._logarithms) is None:
            return ALONE
        count, middle, deviation, largest = found
        beyond = middle + (DEVIATIONS + FEW / count) * deviation - largest
        return min(max(math.exp(beyond), 1.0), MOST)

    @property
    def spread(self) -> float:
        """How far others' sizes may lie from those of these: a deviation of logarithms, less with more samples."""
        if (found := self._logarithms) is None:
            return math.log(ALONE)
        count, _, deviation, _ = found
        return BANDWIDTH * deviation * float(count**-0.2)

    @property
    def _logarithms(self) -> tuple[int, float, float, float] | None:
        """Of sizes: how many, their median, the deviation of those above it, the largest; None of less than two."""
        sizes = np.concatenate(self.sizes).astype(np.float64)
        largest = float(sizes.max(initial=0))
        if len(sizes) < 2 or not largest:
            return None
        logarithms = np.log(np.maximum(sizes, largest * _SMALLEST))
        middle = float(np.median(logarithms))
        # Of those above alone: that some samples are small says nothing of how large others are.
        deviation = math.sqrt(float(np.square(logarithms[logarithms >= middle] - middle).mean()))
        return len(sizes), middle, deviation, math.log(largest)


def sample_values(
    model: ir.Model, ranges: Mapping[str, float], samples: Inputs, *, count: int, seed: int = 0
) -> dict[str, Sample]:
    """About `count` values within its range of each named tensor of a float network, or all where there are fewer.

    Args:
        model: the float network.
        ranges: name -> the largest magnitude that is within.
        samples: `[N, C, H, W]`, or arrays by name; every one gives as many values.
        count: of values that are drawn.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    found = {name: Sample() for name in ranges}
    for tensors, length in Pieces(model, list(ranges)).run(samples):
        for name, tensor in tensors.items():
            flat, own = tensor.reshape(-1), found[name]
            share = max(count * length // count_of(samples), 1)
            drawn = flat[rng.integers(0, flat.size, share)] if flat.size > share else flat
            own.count += flat.size
            own.low, own.high = min(own.low, float(flat.min(initial=0))), max(own.high, float(flat.max(initial=0)))
            own.drawn.append(drawn[np.abs(drawn) <= ranges[name]])
            magnitudes = np.abs(flat)
            own.beyond.append(flat[magnitudes > ranges[name]])
            own.sizes.append(_sizes(magnitudes.reshape(length if len(tensor) == length else 1, -1)))
    return found


def _sizes(magnitudes: FloatArray) -> FloatArray:
    """Of rows of samples; of a large one, some of its values."""
    some = magnitudes[:, :: max(magnitudes.shape[1] // _LOOKED_AT, 1)]
    place = some.shape[1] - 1 - some.shape[1] // 1000
    sizes: FloatArray = np.partition(some, place, axis=1)[:, place]
    return sizes
