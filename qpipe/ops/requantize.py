"""A quantizer that reads another one: the integers move to another grid, rounded half to even."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.arith.exact import Exact
from qpipe.arith.namespace import IntArray
from qpipe.ops.base import Refusal, Role, Unweighted

if TYPE_CHECKING:
    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class Requantize(Unweighted):
    """Real values stay until the quantizer behind rounds them."""

    op_types = ("QuantizeLinear",)
    role = Role.NONE

    def refusal(self, node: ir.Node) -> Refusal:
        """Whatever a float graph has such a node for: it becomes a layer only where one quantizer reads another."""
        return Refusal("it is a part of a quantizer that calibration did not write: take the quantizers out")

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x -> x`."""
        return lambda x: x

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """The integers as they are."""
        return Exact(sources[0], layer.sources[0].grid.exponent)

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """The codes themselves, moved to the other grid."""
        b.carry(layer, b.codes(layer.sources[0]), layer.sources[0].grid)

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """The codes themselves, moved to the other grid."""
        layout = b.layout(layer.sources[0])
        b.carry(layer, b.codes(layer.sources[0], layout), layout, layer.sources[0].grid)
