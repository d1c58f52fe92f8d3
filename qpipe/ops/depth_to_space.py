"""DepthToSpace and SpaceToDepth: blocks of pixels become channels, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import A, IntArray
from qpipe.errors import LoweringError
from qpipe.nodes import describe, int_attribute, static_shape, string_attribute
from qpipe.ops.base import Carrier, Refusal
from qpipe.ops.refused import size_advice

if TYPE_CHECKING:
    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.ops.base import TorchFunction


class DepthToSpace(Carrier):
    """Both, in all modes."""

    op_types = ("DepthToSpace", "SpaceToDepth")
    only_reshapes = True
    homogeneous = True

    def refusal(self, node: ir.Node) -> Refusal | None:
        """An image whose channels, or height and width, are multiples of the block."""
        shape, block = static_shape(node.inputs[0]), int_attribute(node, "blocksize", 1)
        if shape is None or len(shape) != 4 or shape[1] is None:
            return Refusal(f"the shape of its operand is unknown: {size_advice(node)}")
        if block < 1 or any(size % each for size, each in zip(shape[1:], _divisors(node), strict=True) if size):
            return Refusal(f"its blocksize is {block}, expected a divisor of the sizes {list(shape[1:])}")
        return None

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x [N, C * b * b, H, W] -> [N, C, H * b, W * b]`, or the other way."""

        def run(x: Any) -> Any:
            n, c, h, w = x.shape
            split, order, new = _forms(node, c, h, w)
            parts = x.reshape(n, *split)
            return _transposed(parts, [0, *(1 + axis for axis in order)]).reshape(n, *new)

        return run

    def moved(self, node: ir.Node, x: IntArray) -> IntArray:
        """The same function, which knows both libraries."""
        found: IntArray = np.asarray(self.torch(node)(x))
        return found

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """With channels last: one Transpose, of whole pixels but in the mode CRD."""
        source, sizes = layer.sources[0], static_shape(layer.sources[0].codes)
        if sizes is None or len(sizes) != 4 or None in sizes[1:]:
            raise LoweringError(f"{describe(layer.node)}: the image's size is unknown, expected a fixed one")
        c, h, w = (size or 0 for size in sizes[1:])
        split, order, new = _forms(layer.node, c, h, w)
        # How many axes of blocks belong to channels, before and behind: these go last.
        entering = 1 if layer.op_type == "SpaceToDepth" else 3
        leaving = 4 - entering
        before = [*range(entering, 5), *range(entering)]
        after = [*order[leaving:], *order[:leaving]]
        value = b.node("Reshape", [b.codes(source, "NHWC"), b.integers([0, *(split[axis] for axis in before)])])
        value = b.transpose(value, [0, *(1 + before.index(axis) for axis in after)])
        value = b.node("Reshape", [value, b.integers([0, new[1], new[2], new[0]])])
        b.carry(layer, value, "NHWC", source.grid)


def _divisors(node: ir.Node) -> tuple[int, int, int]:
    """What channels, height and width must be multiples of."""
    block = max(int_attribute(node, "blocksize", 1), 1)
    return (block * block, 1, 1) if node.op_type == "DepthToSpace" else (1, block, block)


def _forms(node: ir.Node, c: int, h: int, w: int) -> tuple[list[int], list[int], list[int]]:
    """By ONNX's text, without the batch: the shape of blocks, the order of its axes, and the shape of the result."""
    block = int_attribute(node, "blocksize", 1)
    if node.op_type == "SpaceToDepth":
        split = [c, h // block, block, w // block, block]
        return split, [2, 4, 0, 1, 3], [c * block * block, h // block, w // block]
    depth, new = c // (block * block), [c // (block * block), h * block, w * block]
    if string_attribute(node, "mode", "DCR") == "CRD":
        return [depth, block, block, h, w], [0, 3, 1, 4, 2], new
    return [block, block, depth, h, w], [2, 3, 0, 4, 1], new


def _transposed(x: A, order: list[int]) -> A:
    found: A = x.transpose(order) if isinstance(x, np.ndarray) else x.permute(order)
    return found
