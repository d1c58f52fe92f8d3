"""Relu, or Clip from 0: fused behind a layer it is the range of its grid; alone, a clip of the integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.arith.exact import Exact
from qpipe.arith.namespace import IntArray
from qpipe.arith.spec import QuantSpec
from qpipe.nodes import constant_input, input_value
from qpipe.ops.base import Carrier, Refusal
from qpipe.ops.factors import Factors
from qpipe.ops.function import Rectifier
from qpipe.ops.work import NodeWork, Work

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class Activation(Carrier):
    """`min(max(x, 0), bound)`; the bound is rounded to the grid."""

    op_types = ("Relu", "Clip")

    def takes(self, node: ir.Node) -> bool:
        """A Relu, and a Clip from 0 to a number above."""
        return self.activation(node) is not None

    def refusal(self, node: ir.Node) -> Refusal | None:
        """None: it has one."""
        return None

    def activation(self, node: ir.Node) -> Rectifier | None:
        """A Relu's bound is infinite, a ReLU6's 6; None for a Clip that is no activation."""
        if node.op_type == "Relu":
            return Rectifier(math.inf)
        low, high = _limit(node, 1), _limit(node, 2)
        if low != 0.0 or (input_value(node, 2) is not None and high is None):
            return None
        bound = math.inf if high is None else high
        # Where the bounds are in the wrong order ONNX gives the upper one for every number, and so it is with none.
        return Rectifier(bound) if bound > 0 else None

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """Those of its operand, without an upper bound."""
        return operands[0] if self.is_homogeneous(node) else self.without_factors(node, operands, book)

    def is_homogeneous(self, node: ir.Node) -> bool:
        """Without an upper bound."""
        function = self.activation(node)
        return function is not None and function.is_homogeneous

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """It cuts at 0."""
        return False

    def work(self, node: ir.Node) -> NodeWork:
        """A comparison with each bound; the gradient passes where x is within."""
        function = self.activation(node)
        bounds = Work(compare=1 if function is not None and math.isinf(function.bound) else 2)
        return NodeWork(bounds, backward=bounds)

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x -> min(max(x, 0), bound)`."""
        function = self.activation(node)
        assert function is not None

        def run(x: torch.Tensor) -> torch.Tensor:
            return x.relu() if math.isinf(function.bound) else x.clamp(0.0, function.bound)

        return run

    def carried(self, node: ir.Node, sources: Sequence[QuantSpec]) -> QuantSpec:
        """The input's grid, cut at 0 and at the bound; a zero point stays."""
        function = self.activation(node)
        assert function is not None
        return sources[0].clipped(function.bound)

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """The clip of the real numbers, whose bound may lie between two of the grid."""
        (x,), function, grid = sources, self.activation(layer.node), layer.sources[0].grid
        assert function is not None
        return Exact(function.real(x * 2.0**grid.exponent) * 2.0**-grid.exponent, grid.exponent)

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """A Clip of the codes."""
        b.carry(layer, b.codes(layer.sources[0]), self.carried(layer.node, [layer.sources[0].grid]))

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """A Clip of the codes."""
        source = layer.sources[0]
        layout = b.layout(source)
        b.carry(layer, b.codes(source, layout), layout, self.carried(layer.node, [source.grid]))


def _limit(node: ir.Node, index: int) -> float | None:
    """A Clip's bound, which some exporters write as a list of one; None where it is left out or computed."""
    array = constant_input(node, index)
    return None if array is None or array.size != 1 else float(array.reshape(-1)[0])
