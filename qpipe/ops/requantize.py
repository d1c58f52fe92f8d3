"""A quantizer that reads another one: the integers move to another grid, rounded half to even."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.ops.base import Op

if TYPE_CHECKING:
    from qpipe.ops.base import TorchFunction


class Requantize(Op):
    """Real values stay until the quantizer behind rounds them."""

    op_types = ("QuantizeLinear",)

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x -> x`."""
        return lambda x: x
