"""Relu, or Clip from 0, that stands alone (after a carrier, or beside another reader): a clip of the integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.arith.spec import QuantSpec
from qpipe.ir.graph.layers import activation_bound
from qpipe.ops.base import Unweighted

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class Activation(Unweighted):
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
        bound = activation_bound(node)
        assert bound is not None
        return sources[0].clipped(bound)

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """A Clip of the codes."""
        b.carry(layer, b.codes(layer.sources[0]), self.carried(layer.node, [layer.sources[0].spec]))

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """A Clip of the codes."""
        source = layer.sources[0]
        layout = b.layout(source)
        b.carry(layer, b.codes(source, layout), layout, self.carried(layer.node, [source.spec]))
