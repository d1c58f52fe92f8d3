"""Slice with constant bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import IntArray
from qpipe.nodes import constant_input, require_constant
from qpipe.ops.base import Carrier, Refusal
from qpipe.ops.factors import Factors
from qpipe.ops.shape import arguments_refusal

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.ops.base import TorchFunction


class Slice(Carrier):
    """Takes a part of a tensor."""

    op_types = ("Slice",)
    only_reshapes = True
    homogeneous = True
    moves_wide = True

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Constant bounds."""
        return arguments_refusal(node)

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """Those of the numbers that it takes."""
        (x,) = operands
        for axis, part in slices(node).items():
            if x.shape[axis] > 1:
                x = x[(slice(None),) * (axis % x.ndim) + (part,)]
        return x

    def fits_skip(self, node: ir.Node) -> bool:
        """To choose."""
        return True

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x -> x[start:end:step]` along each axis; torch knows no negative steps, so those are index lists."""
        bounds = slices(node)

        def run(x: torch.Tensor) -> torch.Tensor:
            import torch

            for axis, part in bounds.items():
                chosen = _chosen(part, x.shape[axis])
                if chosen.step > 0:
                    index = [slice(None)] * x.ndim
                    index[axis] = slice(chosen.start, chosen.stop, chosen.step)
                    x = x[tuple(index)]
                else:
                    x = x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64))
            return x

        return run

    def moved(self, node: ir.Node, x: IntArray) -> IntArray:
        """By the numbers that ONNX's text gives each axis."""
        for axis, part in slices(node).items():
            x = np.take(x, _chosen(part, x.shape[axis]), axis)
        return x

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """Slice of the codes, in the layout that the tensor has."""
        source = layer.sources[0]
        layout, dims = b.layout(source), len(source.codes.shape or ())
        node = layer.node
        starts, ends = (b.integers(require_constant(node, i, "bounds").tolist()) for i in (1, 2))
        axes, steps = constant_input(node, 3), constant_input(node, 4)
        count = len(require_constant(node, 1, "starts"))
        chosen = [b.axis(int(axis), dims, layout) for axis in (range(count) if axes is None else axes)]
        strides = b.integers([1] * count if steps is None else steps.tolist())
        value = b.node("Slice", [b.codes(source, layout), starts, ends, b.integers(chosen), strides])
        b.carry(layer, value, layout, source.grid)


def _chosen(part: slice, size: int) -> range:
    """The places of an axis of this size that it takes, in order."""
    # Where Python starts a backward slice before the first element, and is empty, ONNX starts at it.
    start = part.start if part.step > 0 else max(part.start, -size)
    return range(size)[start : part.stop : part.step]


def slices(node: ir.Node) -> dict[int, slice]:
    """Axis -> Python slice with ONNX's meaning: bounds beyond the end are cut."""
    starts, ends = require_constant(node, 1, "starts"), require_constant(node, 2, "ends")
    axes, steps = constant_input(node, 3), constant_input(node, 4)
    count = len(starts)
    axes_ = list(range(count)) if axes is None else [int(a) for a in axes]
    steps_ = [1] * count if steps is None else [int(s) for s in steps]
    found = {}
    for axis, start, end, step in zip(axes_, starts, ends, steps_, strict=True):
        # Below the lowest index, a backward slice goes on to the first element.
        stop = None if step < 0 and int(end) < -(2**30) else int(end)
        found[axis] = slice(int(start), stop, step)
    return found
