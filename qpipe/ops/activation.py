"""Relu, or Clip from 0, that stands alone (after a carrier, or beside another reader): a clip of the integers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.arith.spec import QuantSpec
from qpipe.ir.layers import activation_bound
from qpipe.ops.base import Op

if TYPE_CHECKING:
    import torch

    from qpipe.ir.view import QuantizedLayer
    from qpipe.ops.base import TorchFunction
    from qpipe.ops.integer_builder import IntegerBuilder
    from qpipe.ops.qoperator_builder import QOperatorBuilder


class Activation(Op):
    """`min(max(x, 0), bound)`; the bound is rounded to the grid."""

    op_types = ("Relu", "Clip")

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x -> min(max(x, 0), bound)`."""
        bound = activation_bound(node)
        assert bound is not None

        def run(x: torch.Tensor) -> torch.Tensor:
            return x.relu() if math.isinf(bound) else x.clamp(0.0, bound)

        return run

    def carried(self, node: ir.Node, sources: Sequence[QuantSpec]) -> QuantSpec:
        """The input's grid, cut at 0 and at the bound; a zero point stays."""
        return clipped(sources[0], activation_bound(node))

    def lower_qoperator(self, layer: QuantizedLayer, b: QOperatorBuilder) -> None:
        """A Clip of the codes."""
        b.carry(layer, b.codes(layer.inputs[0]), self.carried(layer.node, [layer.inputs[0].spec]))

    def lower_integer(self, layer: QuantizedLayer, b: IntegerBuilder) -> None:
        """A Clip of the codes."""
        source = layer.inputs[0]
        layout = b.layout(source)
        b.carry(layer, b.codes(source, layout), layout, self.carried(layer.node, [source.spec]))


def clipped(spec: QuantSpec, bound: float | None) -> QuantSpec:
    """The grid cut at 0 and at the bound, which is rounded to it."""
    assert bound is not None
    top = spec.qmax if math.isinf(bound) else min(spec.qmax, round(bound / spec.scale))
    return dataclasses.replace(spec, qmin=max(spec.qmin, 0), qmax=top)
