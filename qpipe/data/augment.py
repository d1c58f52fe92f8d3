"""Random crop and horizontal flip of uint8 images, before normalization.

The border is black (pixel 0) and is added before normalization, as pretrained networks had it: padding with the value 0
after normalization shows them a colour that they never saw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from qpipe.data.draws import AUGMENT, generator
from qpipe.data.preprocess import Pixels
from qpipe.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Pad every image by `pad` black pixels on each side, crop it back at random, and flip it half of the times."""

    pad: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise DataError(f"augmentation: pad is {self.pad}, expected at least 0")

    def plan(self, count: int, *, seed: int, epoch: int, part: int = 0) -> AugmentPlan:
        """Draw crop and flip of `count` samples, by their index in the data."""
        draw = generator(seed, epoch, AUGMENT, part)
        tops, lefts = draw.integers(0, 2 * self.pad + 1, (2, count))
        flips = draw.random(count) < 0.5 if self.flip else np.zeros(count, bool)
        return AugmentPlan(pad=self.pad, tops=tops, lefts=lefts, flips=flips)


@dataclass(frozen=True, kw_only=True, eq=False)
class AugmentPlan:
    """One epoch's draws: crop origins in the padded image, int64 [N], and flips, bool [N]."""

    pad: int
    tops: npt.NDArray[np.int64]
    lefts: npt.NDArray[np.int64]
    flips: npt.NDArray[np.bool_]

    def __call__(self, pixels: Pixels, indices: npt.NDArray[np.int64]) -> Pixels:
        """Augment uint8 [N, H, W, C], the samples with these indices, into the same shape."""
        count, height, width, channels = pixels.shape
        pad = self.pad
        padded = np.zeros((count, height + 2 * pad, width + 2 * pad, channels), np.uint8)
        padded[:, pad : pad + height, pad : pad + width] = pixels
        # Rows as plain bytes: the copy of a window is then one block per row.
        rows = padded.reshape(count, height + 2 * pad, -1)
        windows = sliding_window_view(rows, (height, width * channels), axis=(1, 2))
        cropped = windows[np.arange(count), self.tops[indices], self.lefts[indices] * channels]
        result: Pixels = cropped.reshape(count, height, width, channels)
        flipped = np.flatnonzero(self.flips[indices])
        for channel in range(channels):  # reversing plane by plane is twice as fast as reversing whole pixels
            result[flipped, :, :, channel] = result[flipped, :, ::-1, channel]
        return result
