"""A quantizer that reads another one: the integers move to another grid, rounded half to even."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.ops.base import Op

if TYPE_CHECKING:
    from qpipe.ir.quantized.view import QuantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class Requantize(Op):
    """Real values stay until the quantizer behind rounds them."""

    op_types = ("QuantizeLinear",)

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x -> x`."""
        return lambda x: x

    def lower_qoperator(self, layer: QuantizedLayer, b: QOperatorBuilder) -> None:
        """The codes themselves, moved to the other grid."""
        b.carry(layer, b.codes(layer.inputs[0]), layer.inputs[0].spec)

    def lower_integer(self, layer: QuantizedLayer, b: IntegerBuilder) -> None:
        """The codes themselves, moved to the other grid."""
        layout = b.layout(layer.inputs[0])
        b.carry(layer, b.codes(layer.inputs[0], layout), layout, layer.inputs[0].spec)
