"""Where the places of a resized axis lie in the operand, by ONNX's text and as runtimes compute it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt

_HALF: Final = Fraction(1, 2)
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scaling:
    """One axis: from so many places to so many, and by which factor ONNX's formulas divide.

    by_size: whether the node gives the new size, of which the factor follows.
    """

    size: int
    new: int
    factor: Fraction
    by_size: bool

    def coordinates(self, mode: str) -> list[Fraction]:
        """Where each place of the result lies in the operand, by ONNX's text (`coordinate_transformation_mode`)."""
        return [TRANSFORMATIONS[mode](self, place) for place in range(self.new)]

    def in_float32(self, mode: str) -> Floats:
        """The same, as runtimes compute it."""
        one, half = np.float32(1), np.float32(0.5)
        places, size, new = np.arange(self.new, dtype=np.float32), np.float32(self.size), np.float32(self.new)
        factor = new / size if self.by_size else np.float32(float(self.factor))
        if mode == "asymmetric":
            return places / factor
        if mode == "align_corners":
            return places * (size - one) / (new - one) if self.new > 1 else 0 * places
        if mode == "pytorch_half_pixel" and self.new == 1:
            return 0 * places
        offset = size / 2 * (one - new / (factor * size)) if mode == "half_pixel_symmetric" else np.float32(0)
        return (offset + (places + half) / factor - half).astype(np.float32)


def _half_pixel(axis: Scaling, place: int) -> Fraction:
    return (place + _HALF) / axis.factor - _HALF


def _symmetric(axis: Scaling, place: int) -> Fraction:
    return Fraction(axis.size, 2) * (1 - axis.new / (axis.factor * axis.size)) + _half_pixel(axis, place)


TRANSFORMATIONS: Final[Mapping[str, Callable[[Scaling, int], Fraction]]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": lambda axis, place: _half_pixel(axis, place) if axis.new > 1 else Fraction(0),
    "asymmetric": lambda axis, place: place / axis.factor,
    "align_corners": lambda axis, place: (
        Fraction(place * (axis.size - 1), axis.new - 1) if axis.new > 1 else Fraction()
    ),
}
"""By `coordinate_transformation_mode`."""
