"""Add of two activations: the residual."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.arith.certificate import MAX_EXPONENT_DISTANCE, CertificateRow, add_row
from qpipe.arith.exact import Exact
from qpipe.arith.namespace import IntArray
from qpipe.arith.spec import QuantSpec
from qpipe.arith.symbolic import INT32, UINT8
from qpipe.nodes import constant_array
from qpipe.ops.base import Refusal, Role, StandardForm, Unweighted
from qpipe.ops.refused import constant_advice
from qpipe.ops.work import NodeWork, Work

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class Add(Unweighted):
    """Both operands on power-of-two grids; the sum is exact, and requantized once, after the activation."""

    op_types = ("Add",)
    role = Role.JOIN
    is_sum = True
    standard_forms = (StandardForm("QLinearAdd", "Add", slice(0, 6, 3)),)

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Two activations of one shape."""
        if any(constant_array(value) is not None for value in node.inputs):
            return Refusal(constant_advice(node))
        if _broadcasts(node):
            advice = "give both operands one shape (a constant belongs into the bias of the layer before)"
            return Refusal(f"it broadcasts: {advice}")
        return None

    def keeps_channels(self, node: ir.Node) -> bool:
        """A sum does."""
        return True

    def operands(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """Both."""
        return tuple(value for value in node.inputs if value is not None)

    def work(self, node: ir.Node) -> NodeWork:
        """Its gradient is both operands'."""
        return NodeWork(Work(add=1))

    def torch(self, node: ir.Node) -> TorchFunction:
        """`(a, b) -> a + b`."""

        def run(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

        return run

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """The sum in the finer operand's steps."""
        unit = min(q.grid.exponent for q in layer.sources)
        a, b = (x << (q.grid.exponent - unit) for x, q in zip(sources, layer.sources, strict=True))
        return Exact(a + b, unit)

    def distance(self, sources: Sequence[QuantSpec]) -> str | None:
        """The finer operand's steps must reach over the coarser one's."""
        exponents = [spec.exponent for spec in sources]
        if max(exponents) - min(exponents) <= MAX_EXPONENT_DISTANCE:
            return None
        return (
            f"its operands' exponents are {exponents[0]} and {exponents[1]}, expected at most "
            f"{MAX_EXPONENT_DISTANCE} apart; one of them may be zero in the calibration data"
        )

    def prove(self, layer: RequantizedLayer, *, check_pairs: bool) -> Iterator[CertificateRow]:
        """The sum is exact in float32."""
        yield add_row(layer.name, layer.op_type, [q.reach for q in layer.sources], layer.quantizer.rounded_to)

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """QLinearAdd."""
        inputs = [*b.quantized_inputs(layer), *b.grid(layer.quantizer.rounded_to)]
        b.finish(layer, b.emit("QLinearAdd", inputs, name=layer.name, domain="com.microsoft"))

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """The sum in the finer operand's steps, zero points and all."""
        layout = b.common_layout(layer.sources)
        unit = min(q.grid.exponent for q in layer.sources)
        total, bias, low, high = None, 0, 0, 0
        for q in layer.sources:
            steps = 1 << (q.grid.exponent - unit)
            term = b.symbol(b.codes(q, layout), q.codes, layout, UINT8).astype(INT32) * steps
            total = term if total is None else total + term
            bias -= q.grid.zero_point * steps
            low, high = low + q.grid.stored_min * steps, high + q.grid.stored_max * steps
        assert total is not None
        shift = layer.quantizer.rounded_to.exponent - unit
        b.finish(layer, total, layout, shift=shift, bias=bias, accumulators=(low, high))


def _broadcasts(node: ir.Node) -> bool:
    """Whether the operands are known to differ in shape; dimensions that inference left unknown are taken as equal."""
    left, right = (value.shape for value in node.inputs if value is not None)
    if left is None or right is None:
        return False
    known = [(a, b) for a, b in zip(left, right, strict=False) if isinstance(a, int) and isinstance(b, int)]
    return len(left) != len(right) or any(a != b for a, b in known)
