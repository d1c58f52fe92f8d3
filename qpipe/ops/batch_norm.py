"""BatchNormalization that stands alone: it ships as a 1×1 depthwise Conv whose 8-bit weight is the multiplier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import onnx_ir as ir

from qpipe.arith.namespace import IntArray
from qpipe.errors import LoweringError
from qpipe.nodes import constant_array, describe, int_attribute, rank, require_constant
from qpipe.ops.base import Refusal, Role, Unweighted
from qpipe.ops.factors import Factors, placed
from qpipe.ops.forms import Operands
from qpipe.ops.windows import MOST_DIMS
from qpipe.ops.work import NodeWork, Work

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class BatchNormalization(Unweighted):
    """`y[c] = k[c] * x[c] + b[c]`."""

    op_types = ("BatchNormalization",)
    role = Role.COMPUTE
    parameters = (Operands("BatchNormalization", 1, 2),)

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Constant statistics, and channels in the second dimension."""
        if int_attribute(node, "training_mode", 0):
            return Refusal("it is in training mode: export the model in evaluation mode (model.eval())")
        if any(constant_array(value) is None for value in node.inputs[1:5]):
            return Refusal("its statistics are computed by the graph: export the model with constant ones")
        dims = rank(node.inputs[0]) or 0
        if dims < 2:
            return Refusal(f"its input has {rank(node.inputs[0])} dimensions, expected channels in the second one")
        if dims > 2 + MOST_DIMS:
            return Refusal(f"its input has {dims} dimensions, expected at most {2 + MOST_DIMS}: reshape around it")
        return None

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """It shifts to either side."""
        return True

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """New ones for each channel, which gamma and beta take; gamma and the mean take those of the operand."""
        gamma = require_constant(node, 1, "scale")
        channels, found = book.along(operands[0], 1, gamma.size), book.new(gamma.size)
        for index, taken, power in ((1, channels, 1), (3, channels, -1), (1, found, -1), (2, found, -1)):
            book.take(node, index, taken, power)
        return placed(found, 1, operands[0].ndim)

    def fits_skip(self, node: ir.Node) -> bool:
        """Of a projection."""
        return True

    def work(self, node: ir.Node) -> NodeWork:
        """Inference has constants alone. Training sums x and x², and its gradient is `a dy + b x + c`, of two sums."""
        return NodeWork(Work(multiply=1, add=1), training=Work(multiply=2, add=3), backward=Work(multiply=3, add=4))

    def torch(self, node: ir.Node) -> TorchFunction:
        """`(x [N, C, ...], k [C], b [C]) -> [N, C, ...]`."""

        def run(x: torch.Tensor, k: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            shape = (1, -1, *([1] * (x.ndim - 2)))
            return x * k.reshape(shape) + b.reshape(shape)

        return run

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> NoReturn:
        """LoweringError: `finalize` leaves none."""
        raise LoweringError(f"{describe(layer.node)}: is not finalized")

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> NoReturn:
        """LoweringError: `finalize` leaves none."""
        raise LoweringError(f"{describe(layer.node)}: is not finalized")

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> NoReturn:
        """LoweringError: `finalize` leaves none."""
        raise LoweringError(f"{describe(layer.node)}: is not finalized")
