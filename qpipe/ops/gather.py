"""Gather of constant places, Tile, and Expand along axes of one: what repeats or reorders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import IntArray
from qpipe.nodes import constant_array, constant_input, int_attribute, static_shape
from qpipe.ops.base import Refusal
from qpipe.ops.picker import Picker
from qpipe.ops.refused import size_advice


class Gather(Picker):
    """A list of places along one axis."""

    op_types = ("Gather",)
    only_reshapes = True
    moves_wide = True

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Places that are known, of floats whose sizes are."""
        refused = _argument_refusal(node) or _data_refusal(node)
        places = constant_input(node, 1)
        if refused is not None or places is None:
            return refused
        if places.ndim != 1:
            return Refusal(f"its places are of {places.ndim} dimensions: list them, and write a Reshape behind it")
        return open_axis_refusal(node, self)

    def fits_skip(self, node: ir.Node) -> bool:
        """To choose."""
        return True

    def places(self, node: ir.Node, sizes: Sequence[int]) -> dict[int, IntArray]:
        """As they stand; negative ones count from the end."""
        axis, places = int_attribute(node, "axis", 0) % len(sizes), constant_input(node, 1)
        return {} if places is None else {axis: places.astype(np.int64) % sizes[axis]}


class Tile(Picker):
    """So many copies along each axis, but of the batch."""

    op_types = ("Tile",)
    only_reshapes = True

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Copies that are known, one of the batch."""
        refused = _argument_refusal(node) or _data_refusal(node)
        repeats = constant_input(node, 1)
        if refused is None and repeats is not None and (repeats[0] != 1 or repeats.min() < 1):
            return Refusal("it copies the batch, or nothing: tile axes of the image alone")
        return refused

    def places(self, node: ir.Node, sizes: Sequence[int]) -> dict[int, IntArray]:
        """All of an axis, so many times."""
        repeats = constant_input(node, 1)
        copied = {} if repeats is None else {axis: int(count) for axis, count in enumerate(repeats) if count != 1}
        return {axis: np.tile(np.arange(sizes[axis]), count) for axis, count in copied.items()}


class Expand(Picker):
    """To a shape of as many dimensions."""

    op_types = ("Expand",)
    only_reshapes = True

    def refusal(self, node: ir.Node) -> Refusal | None:
        """A shape that is known and has no new axes, and not of the batch."""
        refused = _argument_refusal(node) or _data_refusal(node)
        shape, sizes = constant_input(node, 1), static_shape(node.inputs[0])
        if refused is not None or shape is None or sizes is None:
            return refused
        if len(shape) > len(sizes):
            return Refusal("it adds axes: write an Unsqueeze before it")
        if 0 in self.places(node, [size or 0 for size in sizes]):
            return Refusal("it expands the batch: expand axes of the image alone")
        return None

    def places(self, node: ir.Node, sizes: Sequence[int]) -> dict[int, IntArray]:
        """The one place, so many times."""
        shape = constant_input(node, 1)
        if shape is None:
            return {}
        new = {len(sizes) - len(shape) + i: int(size) for i, size in enumerate(shape)}
        return {axis: np.zeros(size, np.int64) for axis, size in new.items() if sizes[axis] == 1 and size != 1}


def open_axis_refusal(node: ir.Node, op: Picker) -> Refusal | None:
    """Why it can't pick along an axis whose size is open, such as the batch."""
    sizes = static_shape(node.inputs[0]) or ()
    axes = [axis for axis in op.places(node, [size or 1 for size in sizes]) if sizes[axis] is None]
    return Refusal(f"it picks along axis {axes[0]}, whose size is open: {size_advice(node)}") if axes else None


def _data_refusal(node: ir.Node) -> Refusal | None:
    """Why what it takes from has no grid."""
    data = node.inputs[0]
    if data is None or constant_array(data) is not None or data.dtype not in (None, ir.DataType.FLOAT):
        return Refusal("what it takes from are no activations, and have no grid")
    return None


def _argument_refusal(node: ir.Node) -> Refusal | None:
    """Why what it takes, and of what, is not known."""
    shape = static_shape(node.inputs[0])
    if constant_input(node, 1) is None or shape is None or not shape:
        return Refusal(f"its arguments are computed: {size_advice(node)}")
    return None
