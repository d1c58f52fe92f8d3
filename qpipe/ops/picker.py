"""What picks: carriers that give, along each axis, one of the operand's places for each place of their result."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import IntArray
from qpipe.errors import LoweringError
from qpipe.nodes import describe, static_shape
from qpipe.ops.base import Carrier
from qpipe.ops.factors import Factors

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.ops.base import TorchFunction


class Picker(Carrier):
    """An op of which `places` says all."""

    homogeneous = True

    @abstractmethod
    def places(self, node: ir.Node, sizes: Sequence[int]) -> Mapping[int, IntArray]:
        """Axis -> which of its places, in order, of an operand of these sizes; an axis that stays is left out."""

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """Those of the numbers at the places."""
        (x,), sizes = operands, [size or 1 for size in static_shape(node.inputs[0]) or ()]
        for axis, chosen in self.places(node, sizes).items():
            x = np.take(x, chosen, axis) if x.shape[axis] > 1 else x
        return x

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x -> x` at the places."""

        def run(x: torch.Tensor) -> torch.Tensor:
            import torch

            for axis, chosen in in_order(self.places(node, x.shape), x.shape):
                x = x.index_select(axis, torch.from_numpy(chosen).to(x.device))
            return x

        return run

    def moved(self, node: ir.Node, x: IntArray) -> IntArray:
        """The integers at the places."""
        for axis, chosen in in_order(self.places(node, x.shape), x.shape):
            x = np.take(x, chosen, axis)
        return x

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """A Gather along each axis; of images with channels last, whose pixels are copied whole."""
        source, dims = layer.sources[0], len(layer.sources[0].codes.shape or ())
        sizes, layout = picked_sizes(self, layer.node), b.layout_of_images(source)
        value = b.codes(source, layout)
        for axis, chosen in in_order(self.places(layer.node, sizes), sizes):
            value = b.node("Gather", [value, b.integers(chosen.tolist())], axis=b.axis(axis, dims, layout))
        b.carry(layer, value, layout, source.grid)


def in_order(places: Mapping[int, IntArray], sizes: Sequence[int]) -> list[tuple[int, IntArray]]:
    """What shrinks first; of the rest the last axis first, so that the largest copy has the longest runs."""
    return sorted(places.items(), key=lambda item: (len(item[1]) > sizes[item[0]], -item[0]))


def picked_sizes(op: Picker, node: ir.Node) -> list[int]:
    """The operand's sizes, 1 for one that is open and stays; LoweringError of one that is open and does not."""
    known = static_shape(node.inputs[0]) or ()
    sizes = [1 if size is None else size for size in known]
    for axis in op.places(node, sizes):
        if known[axis] is None:
            raise LoweringError(f"{describe(node)}: the size of axis {axis} is unknown, expected a fixed one")
    return sizes
