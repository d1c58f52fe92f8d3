"""Resize: to the nearest pixel, where each place of the result is one of the operand's, or linear, to means."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.certificate import CertificateRow
from qpipe.arith.exact import Exact
from qpipe.arith.namespace import AnyArray, IntArray
from qpipe.nodes import constant_input, float_attribute, int_attribute, ints_attribute, static_shape, string_attribute
from qpipe.ops.base import Refusal
from qpipe.ops.factors import Factors
from qpipe.ops.interpolation import Line, float_problem, line_of, matrix_of, mean_of, sum_of, symbolic_sum
from qpipe.ops.picker import Picker, picked_sizes
from qpipe.ops.refused import OR_LEAVE, size_advice
from qpipe.ops.scaling import TRANSFORMATIONS, Scaling
from qpipe.ops.work import NodeWork, Work

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction

_HALF: Final = Fraction(1, 2)


_NEAREST: Final[Mapping[str, Callable[[Fraction], int]]] = {
    "round_prefer_floor": lambda x: math.ceil(x - _HALF),
    "round_prefer_ceil": lambda x: math.floor(x + _HALF),
    "floor": math.floor,
    "ceil": math.ceil,
}


class Resize(Picker):
    """By constant factors or to constant sizes, to the nearest pixel or linear, by any of ONNX's coordinates."""

    op_types = ("Resize",)
    only_reshapes = True

    def refusal(self, node: ir.Node) -> Refusal | None:
        """What is computed, or hangs on how floats are rounded."""
        mode = string_attribute(node, "mode", "nearest")
        if mode not in ("nearest", "linear"):
            return Refusal(f"mode '{mode}' has no integer form: use 'linear' or 'nearest' and train on, {OR_LEAVE}")
        if _transformation(node) not in TRANSFORMATIONS:
            return Refusal(f"coordinates by {_transformation(node)}: use half_pixel or asymmetric ones and train on")
        if string_attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
            return Refusal("it keeps the aspect ratio: give it the sizes that this leads to")
        shape = static_shape(node.inputs[0])
        if _asked(node) is None or shape is None:
            return Refusal(f"its sizes are computed: {size_advice(node)}")
        return _axes_refusal(node, shape) or (_linear_refusal(node, shape) if self.rounds(node) else None)

    def rounds(self, node: ir.Node) -> bool:
        """The means do."""
        return string_attribute(node, "mode", "nearest") == "linear"

    def ends_float(self, node: ir.Node) -> bool:
        """Means of scores keep what lies between their steps."""
        return self.rounds(node)

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """One along each axis that is resized: a mean is linear."""
        return book.over(operands[0], sorted(_asked(node) or {}))

    def fits_skip(self, node: ir.Node) -> bool:
        """To shrink, or to widen."""
        return self.refusal(node) is None

    def work(self, node: ir.Node) -> NodeWork:
        """Two products and a sum along each axis; the gradient goes back to two places."""
        axes = len(_asked(node) or {}) if self.rounds(node) else 0
        return NodeWork(Work(multiply=2 * axes, add=axes), backward=Work(multiply=2 * axes, add=2 * axes))

    def places(self, node: ir.Node, sizes: Sequence[int]) -> dict[int, IntArray]:
        """The nearest pixels, within the image."""
        mode, found = _transformation(node), scalings(node, sizes)
        return {axis: _nearest(node, along, along.coordinates(mode)) for axis, along in found.items()}

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x [N, C, *S] -> [N, C, *S']`."""
        if not self.rounds(node):
            return super().torch(node)

        def run(x: torch.Tensor) -> torch.Tensor:
            for axis, line in _lines(node, x.shape):
                x = mean_of(x, axis, line)
            return x

        return run

    def prove(self, layer: RequantizedLayer, *, check_pairs: bool) -> Iterator[CertificateRow]:
        """Of means: on the grid that they carry, float32 rounds them rightly."""
        if self.rounds(layer.node):
            source, output = layer.sources[0].reach, layer.quantizer.rounded_to
            coarser = output.exponent > source.exponent
            problems = ("its grid is coarser than its operand's; calibrate the network again",) if coarser else ()
            yield CertificateRow(layer.name, layer.op_type, f"-/{source.bits}", problems=problems)

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """The sums by integer weights, to be divided by what these sum to."""
        if not self.rounds(layer.node):
            return super().exact(layer, *sources)
        (x,), total = sources, 1
        for axis, line in _lines(layer.node, x.shape):
            x, total = sum_of(x, axis, line), total * line.total
        return Exact(x, layer.sources[0].grid.exponent, total)

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """The node itself on codes; means are a float island, whose only rounding is the last."""
        if not self.rounds(layer.node):
            super().lower_qoperator(layer, b)
            return
        node, name, float32 = layer.node, layer.name, ir.DataType.FLOAT
        real = b.emit("DequantizeLinear", b.quantized_inputs(layer), name=f"{name}_dequantize", dtype=float32)
        mean = b.emit("Resize", [real, *node.inputs[1:]], name=name, attributes=node.attributes, dtype=float32)
        codes = b.emit("QuantizeLinear", [mean, *b.grid(layer.quantizer.rounded_to)], name=f"{name}_quantize")
        b.finish(layer, codes)

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """Gathers of whole pixels; of means, their sum by weights."""
        if not self.rounds(layer.node):
            super().lower_integer(layer, b)
            return
        source = layer.sources[0]
        lines, layout = _lines(layer.node, picked_sizes(self, layer.node)), b.layout_of_images(source)
        total = symbolic_sum(b, source, layout, lines)
        b.mean_by_weights(layer, total, math.prod(line.total for _, line in lines), layout)


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


def resized(node: ir.Node, x: AnyArray) -> AnyArray | None:
    """What it makes of a constant of floats, rounded to float32.

    None of more than a stretching, and where rounding decides of sizes or places.
    """
    mode, places = string_attribute(node, "mode", "nearest"), _transformation(node)
    odd = any(int_attribute(node, name, 0) for name in ("antialias", "exclude_outside"))
    stretches = string_attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
    if odd or not stretches or places not in TRANSFORMATIONS or _asked(node) is None or x.dtype != np.float32:
        return None
    cubic = float_attribute(node, "cubic_coeff_a", -0.75) if mode == "cubic" else None
    found = x.astype(np.float64)
    for axis, along in scalings(node, x.shape).items():
        if along.size == 0 or along.new == 0 or not _has_certain_size(along):
            return None
        if mode == "nearest":
            if not _is_certain(node, along, places):
                return None
            found = found.take(_nearest(node, along, along.coordinates(places)), axis)
        else:
            matrix = matrix_of(along, places, cubic)
            found = np.moveaxis(np.tensordot(matrix, found, axes=([1], [axis])), 0, axis)
    return found.astype(np.float32)


def _lines(node: ir.Node, sizes: Sequence[int]) -> list[tuple[int, Line]]:
    """Each axis that becomes means, the first axis first."""
    mode = _transformation(node)
    return sorted((axis, line_of(along, mode)) for axis, along in scalings(node, sizes).items())


def _linear_refusal(node: ir.Node, shape: Sequence[int | None]) -> Refusal | None:
    """Why the means of an operand of this shape are not the same everywhere."""
    axes, dims = scalings(node, [size or 0 for size in shape]), len(shape)
    if dims > 5 or any(axis < 2 or shape[axis] is None for axis in axes):
        return Refusal("it computes means of channels, or of images of unknown size: export it with a fixed size")
    if any(along.factor < 1 for along in axes.values()) and int_attribute(node, "antialias", 0):
        return Refusal("its antialias has no integer form: export it without")
    if int_attribute(node, "exclude_outside", 0):
        return Refusal("its exclude_outside has no integer form: export it without")
    problem = float_problem(list(axes.values()), _transformation(node))
    return None if problem is None else Refusal(f"{problem}, or 'nearest', {OR_LEAVE}")


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
        if (
            shape[axis] is not None
            and string_attribute(node, "mode", "nearest") == "nearest"
            and not _is_certain(node, found, mode)
        ):
            return Refusal(
                f"float rounding decides which pixels it takes along axis {axis} ({found.size} to {found.new}): "
                "use a factor that is a whole number or one through it"
            )
    return None


def _is_certain(node: ir.Node, along: Scaling, mode: str) -> bool:
    """Whether the size and the places are the same in float32."""
    places = _nearest(node, along, [Fraction(float(x)) for x in along.in_float32(mode)])
    return _has_certain_size(along) and np.array_equal(places, _nearest(node, along, along.coordinates(mode)))


def _has_certain_size(along: Scaling) -> bool:
    """Whether the size is the same in float32: 3 times 7 / 3, a little less than 7 / 3, is 7 there."""
    return along.by_size or int(np.float32(float(along.factor)) * np.float32(along.size)) == along.new
