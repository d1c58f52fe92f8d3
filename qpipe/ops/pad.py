"""Pad: a border of one number, which is a code of the grid, or of what the image itself has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.exact import Exact
from qpipe.arith.namespace import IntArray
from qpipe.arith.spec import QuantSpec
from qpipe.nodes import constant_array, constant_input, rank, require_constant, static_shape, string_attribute
from qpipe.ops.base import Refusal
from qpipe.ops.factors import Factors
from qpipe.ops.picker import Picker
from qpipe.ops.refused import OR_LEAVE, size_advice
from qpipe.ops.windows import padded, torch_pads

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction

LOWEST: Final = -(2.0**64)
"""What is below is meant to be below everything: a border that never is the largest."""


class Pad(Picker):
    """Any mode; negative pads crop."""

    op_types = ("Pad",)
    only_reshapes = True

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Constant pads and border, and an image that is as wide as its reflection."""
        is_computed = any(value is not None and constant_array(value) is None for value in node.inputs[1:])
        if is_computed or rank(node.inputs[0]) is None:
            return Refusal(f"its pads are computed: {size_advice(node)}")
        if not is_constant(node):
            return _border_refusal(node)
        pads, sizes = all_pads(node), static_shape(node.inputs[0]) or ()
        if sizes and sizes[0] is None and (pads[0] or pads[len(sizes)]):
            return Refusal(f"it pads the batch, which is open: pad axes of the image alone, {OR_LEAVE}")
        fill = fill_of(node)
        if math.isnan(fill) or fill > -LOWEST:
            return Refusal(f"it fills in {fill:g}: pad with a number of the image's range")
        return None

    def is_homogeneous(self, node: ir.Node) -> bool:
        """Where it fills in zeros."""
        fill = constant_input(node, 2)
        return fill is None or not fill.any()

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """A border of zeros has those of what it is put around, where that is one along its axis."""
        if not is_constant(node):
            return super().factors(node, operands, book)
        (x,), pads = operands, all_pads(node)
        plain = all(x.shape[axis] == 1 for axis in range(x.ndim) if pads[axis] or pads[x.ndim + axis])
        return x if plain and self.is_homogeneous(node) else self.without_factors(node, operands, book)

    def fits_skip(self, node: ir.Node) -> bool:
        """To widen."""
        return True

    def brings_negatives(self, node: ir.Node) -> bool:
        """A negative border, but the lowest of all."""
        return is_constant(node) and LOWEST <= fill_of(node) < 0

    def rounds(self, node: ir.Node) -> bool:
        """A border of another number than 0 does."""
        return is_constant(node) and fill_of(node) != 0

    def places(self, node: ir.Node, sizes: Sequence[int]) -> dict[int, IntArray]:
        """Of a border of what the image has."""
        pads, mode, found = all_pads(node), string_attribute(node, "mode", "constant"), {}
        for axis, size in enumerate(sizes):
            begin, end = pads[axis], pads[len(sizes) + axis]
            if not begin and not end:
                continue
            places = np.arange(-begin, size + end)
            if mode == "edge":
                places = places.clip(0, size - 1)
            elif mode == "wrap":
                places = places % size
            else:
                places = np.abs(places)
                places = np.where(places > size - 1, 2 * (size - 1) - places, places)
            found[axis] = places.astype(np.int64)
        return found

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x -> x` with its border."""
        if not is_constant(node):
            return super().torch(node)
        from torch.nn import functional as F

        pads, fill = torch_pads(all_pads(node)), max(fill_of(node), LOWEST)

        def run(x: torch.Tensor) -> torch.Tensor:
            return F.pad(x, pads, value=fill)

        return run

    def carried(self, node: ir.Node, sources: Sequence[QuantSpec]) -> QuantSpec:
        """The operand's, or the finest of its width that holds the border as well."""
        grid, fill = sources[0], fill_of(node) if is_constant(node) else 0.0
        if fill < LOWEST or grid.qmin <= round(fill / grid.scale) <= grid.qmax:
            return grid
        reach = max(grid.log2_ymax, math.frexp(fill)[1])
        return QuantSpec.for_range(grid.bits, reach, signed=grid.is_signed or fill < 0)

    def moved(self, node: ir.Node, x: IntArray) -> IntArray:
        """x with a border of zeros, or of its own, or cropped."""
        return padded(x, all_pads(node)) if is_constant(node) else super().moved(node, x)

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """The integers, and the border in their unit."""
        node, unit = layer.node, layer.sources[0].grid.exponent
        if not self.rounds(node):
            return super().exact(layer, *sources)
        (x,), pads = sources, all_pads(node)
        inside = padded(np.ones(x.shape, np.int64), pads).astype(bool)
        border = max(fill_of(node), LOWEST) * 2.0**-unit
        return Exact(np.where(inside, padded(x, pads), np.clip(border, -(2.0**52), 2.0**52)), unit)

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """Pad with a code, on the grid that holds it."""
        node, source, target = layer.node, layer.sources[0], layer.quantizer.rounded_to
        fills = is_constant(node)
        same, codes = _is_same(source.grid, target) or not fills, b.codes(source)
        codes = codes if same else b.move(codes, source.grid, target, layer.name)
        border = b.code(_code(node, target)) if fills else None
        inputs = [codes, node.inputs[1], border, *node.inputs[3:]]
        value = b.emit("Pad", inputs, name=layer.name, attributes=node.attributes)
        if same:
            b.carry(layer, value, source.grid)
        else:
            b.finish(layer, value)

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """Pad with a code, on the grid that holds it, in the layout that the tensor has."""
        if not is_constant(layer.node):
            super().lower_integer(layer, b)
            return
        source, target = layer.sources[0], layer.quantizer.rounded_to
        layout, pads, half = b.layout(source), all_pads(layer.node), rank(layer.node.inputs[0]) or 0
        arranged = [*b.arranged(pads[:half], layout), *b.arranged(pads[half:], layout)]
        same, codes = _is_same(source.grid, target), b.codes(source, layout)
        codes = codes if same else b.moved(layer, source, layout)
        value = b.node("Pad", [codes, b.integers(arranged), b.shared(np.uint8(_code(layer.node, target)))])
        if same:
            b.carry(layer, value, layout, source.grid)
        else:
            b.define_rounded(layer.quantizer, value, layout)


def all_pads(node: ir.Node) -> tuple[int, ...]:
    """ONNX's pads for every axis: all begins, all ends."""
    pads = [int(p) for p in require_constant(node, 1, "pads")]
    axes = constant_input(node, 3)
    if axes is None:
        return tuple(pads)
    dims = rank(node.inputs[0]) or 0
    full = [0] * (2 * dims)
    for i, axis in enumerate(int(a) % dims for a in axes):
        full[axis], full[dims + axis] = pads[i], pads[len(axes) + i]
    return tuple(full)


def is_constant(node: ir.Node) -> bool:
    """Whether its border is one number."""
    return string_attribute(node, "mode", "constant") == "constant"


def fill_of(node: ir.Node) -> float:
    """That number, where it is constant."""
    fill = constant_input(node, 2)
    return 0.0 if fill is None or not fill.size else float(fill.reshape(-1)[0])


def _code(node: ir.Node, target: QuantSpec) -> int:
    """The border as a code of this grid."""
    q = round(max(fill_of(node), LOWEST) / target.scale)
    return min(max(q, target.qmin), target.qmax) + target.zero_point


def _is_same(source: QuantSpec, target: QuantSpec) -> bool:
    return (source.exponent, source.zero_point) == (target.exponent, target.zero_point)


def _border_refusal(node: ir.Node) -> Refusal | None:
    """Why the image has not what the border needs."""
    mode, shape, pads = string_attribute(node, "mode", "constant"), static_shape(node.inputs[0]) or (), all_pads(node)
    if mode not in ("reflect", "edge", "wrap"):
        return Refusal(f"mode '{mode}': pad with zeros and train on")
    for axis, size in enumerate(shape):
        begin, end = pads[axis], pads[len(shape) + axis]
        if not begin and not end:
            continue
        if axis == 0 or size is None or min(begin, end) < 0:
            return Refusal(f"mode '{mode}' crops, or the size of axis {axis} is unknown: {size_advice(node)}")
        if mode != "edge" and max(begin, end) > (size - 1 if mode == "reflect" else size):
            return Refusal(f"mode '{mode}' with pads of {max(begin, end)} on {size} pixels: use smaller pads")
    return None
