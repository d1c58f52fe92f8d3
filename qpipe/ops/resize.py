"""Resize to the nearest pixel: each place of the result is one of the operand's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.arith.namespace import IntArray
from qpipe.nodes import constant_input, ints_attribute, static_shape, string_attribute
from qpipe.ops.base import Refusal
from qpipe.ops.picker import Picker
from qpipe.ops.refused import BEHIND, size_advice

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
        return [_EXACT[mode](self, place) for place in range(self.new)]

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


_EXACT: Final[Mapping[str, Callable[[Scaling, int], Fraction]]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": lambda axis, place: _half_pixel(axis, place) if axis.new > 1 else Fraction(0),
    "asymmetric": lambda axis, place: place / axis.factor,
    "align_corners": lambda axis, place: (
        Fraction(place * (axis.size - 1), axis.new - 1) if axis.new > 1 else Fraction()
    ),
}
_NEAREST: Final[Mapping[str, Callable[[Fraction], int]]] = {
    "round_prefer_floor": lambda x: math.ceil(x - _HALF),
    "round_prefer_ceil": lambda x: math.floor(x + _HALF),
    "floor": math.floor,
    "ceil": math.ceil,
}


class Resize(Picker):
    """By constant factors or to constant sizes, any `coordinate_transformation_mode` and `nearest_mode`."""

    op_types = ("Resize",)
    only_reshapes = True

    def refusal(self, node: ir.Node) -> Refusal | None:
        """What is computed, or hangs on how floats are rounded."""
        mode = string_attribute(node, "mode", "nearest")
        if mode != "nearest":
            return Refusal(f"mode '{mode}' computes new numbers: use 'nearest' and train on, {BEHIND}")
        if _transformation(node) not in _EXACT:
            return Refusal(f"coordinates by {_transformation(node)}: use half_pixel or asymmetric ones and train on")
        if string_attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
            return Refusal("it keeps the aspect ratio: give it the sizes that this leads to")
        shape = static_shape(node.inputs[0])
        if _asked(node) is None or shape is None:
            return Refusal(f"its sizes are computed: {size_advice(node)}")
        return _axes_refusal(node, shape)

    def keeps_channels(self, node: ir.Node) -> bool:
        """Pixels of a channel stay in it."""
        return 1 not in (_asked(node) or {1: 0})

    def fits_skip(self, node: ir.Node) -> bool:
        """To shrink, or to widen."""
        return self.refusal(node) is None

    def places(self, node: ir.Node, sizes: Sequence[int]) -> dict[int, IntArray]:
        """The nearest pixels, within the image."""
        mode, found = _transformation(node), scalings(node, sizes)
        return {axis: _nearest(node, along, along.coordinates(mode)) for axis, along in found.items()}


def _nearest(node: ir.Node, along: Scaling, coordinates: Sequence[Fraction]) -> IntArray:
    nearest = _NEAREST[string_attribute(node, "nearest_mode", "round_prefer_floor")]
    return np.clip(np.array([nearest(x) for x in coordinates], np.int64), 0, along.size - 1)


def _transformation(node: ir.Node) -> str:
    return string_attribute(node, "coordinate_transformation_mode", "half_pixel")


def _asked(node: ir.Node) -> dict[int, Fraction | int] | None:
    """Axis -> its factor (a Fraction) or its new size; what does nothing is left out. None where it is not known."""
    scales, sizes, shape = constant_input(node, 2), constant_input(node, 3), static_shape(node.inputs[0])
    values = sizes if scales is None or not scales.size else scales
    if values is None or not values.size or shape is None:
        return None
    axes = [axis % len(shape) for axis in ints_attribute(node, "axes", range(len(shape)))]
    if len(values) != len(axes):
        return None
    if values is scales:
        return {axis: Fraction(float(value)) for axis, value in zip(axes, values, strict=True) if value != 1}
    return {axis: int(value) for axis, value in zip(axes, values, strict=True) if value != shape[axis]}


def scalings(node: ir.Node, sizes: Sequence[int]) -> dict[int, Scaling]:
    """Of each axis that it resizes, of an operand of these sizes."""
    found = {}
    for axis, asked in (_asked(node) or {}).items():
        size = sizes[axis]
        if isinstance(asked, Fraction):
            found[axis] = Scaling(size, math.floor(size * asked), asked, by_size=False)
        else:
            found[axis] = Scaling(size, asked, Fraction(asked, size), by_size=True)
    return found


def _axes_refusal(node: ir.Node, shape: Sequence[int | None]) -> Refusal | None:
    """Why what it asks of an axis can't be had: it is the batch, it is open, or floats decide what it gives."""
    asked, mode = _asked(node) or {}, _transformation(node)
    if 0 in asked:
        return Refusal("it resizes the batch: give it factors, 1 for the batch")
    for axis, value in asked.items():
        if shape[axis] is None and not (isinstance(value, Fraction) and value.denominator == 1):
            return Refusal(f"the size of axis {axis} is unknown: {size_advice(node)}")
    sizes = [1 if size is None else size for size in shape]
    for axis, found in scalings(node, sizes).items():
        if found.new < 1:
            return Refusal(f"it leaves nothing of axis {axis}")
        if shape[axis] is not None and not _is_certain(node, found, mode):
            return Refusal(
                f"float rounding decides which pixels it takes along axis {axis} ({found.size} to {found.new}): "
                "use a factor that is a whole number or one through it"
            )
    return None


def _is_certain(node: ir.Node, along: Scaling, mode: str) -> bool:
    """Whether the size and the places are the same in float32."""
    places = _nearest(node, along, [Fraction(float(x)) for x in along.in_float32(mode)])
    size = along.new if along.by_size else int(np.float32(float(along.factor)) * np.float32(along.size))
    return size == along.new and np.array_equal(places, _nearest(node, along, along.coordinates(mode)))
