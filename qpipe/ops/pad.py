"""Pad with zeros: real zero is the code of the zero point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import IntArray
from qpipe.nodes import constant_array, constant_input, rank, require_constant, string_attribute
from qpipe.ops.base import Carrier, Refusal
from qpipe.ops.refused import size_advice
from qpipe.ops.windows import padded, torch_pads

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class Pad(Carrier):
    """Constant mode; negative pads crop."""

    op_types = ("Pad",)

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Constant pads, filled with zeros."""
        mode, fill = string_attribute(node, "mode", "constant"), constant_input(node, 2)
        if mode != "constant":
            return Refusal(f"mode '{mode}': pad with zeros and train on")
        if fill is not None and fill.any():
            return Refusal(f"it fills in {float(fill.reshape(-1)[0]):g}: pad with zeros and train on")
        is_computed = any(value is not None and constant_array(value) is None for value in node.inputs[1:])
        if is_computed or rank(node.inputs[0]) is None:
            return Refusal(f"its pads are computed: {size_advice(node)}")
        return None

    def fits_skip(self, node: ir.Node) -> bool:
        """To widen."""
        return True

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x -> x` with a border of zeros."""
        from torch.nn import functional as F

        pads = torch_pads(all_pads(node))

        def run(x: torch.Tensor) -> torch.Tensor:
            return F.pad(x, pads)

        return run

    def moved(self, node: ir.Node, x: IntArray) -> IntArray:
        """x with a border of zeros, or cropped."""
        return padded(x, all_pads(node))

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """Pad with the zero point."""
        source = layer.sources[0]
        inputs = [b.codes(source), layer.node.inputs[1], b.zero_point(source.grid), *layer.node.inputs[3:]]
        b.carry(layer, b.emit("Pad", inputs, name=layer.name), source.grid)

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """Pad with the zero point, in the layout that the tensor has."""
        source = layer.sources[0]
        layout, pads = b.layout(source), all_pads(layer.node)
        half = len(pads) // 2
        arranged = [*b.arranged(pads[:half], layout), *b.arranged(pads[half:], layout)]
        fill = b.shared(np.uint8(source.grid.zero_point))
        value = b.node("Pad", [b.codes(source, layout), b.integers(arranged), fill])
        b.carry(layer, value, layout, source.grid)


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
