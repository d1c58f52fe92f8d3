"""Mul of two activations: a gate, such as squeeze-and-excitation's `[N, C, H, W] * [N, C, 1, 1]`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.arith.certificate import MAX_PRODUCT_EXPONENT, CertificateRow, factors_row
from qpipe.arith.exact import Exact
from qpipe.arith.namespace import IntArray
from qpipe.arith.quantize import MAX_SHIFT
from qpipe.nodes import constant_array
from qpipe.ops.base import Refusal, Role, StandardForm, Unweighted
from qpipe.ops.broadcast import ends_of_product, operand_terms, rank_refusal
from qpipe.ops.refused import constant_advice
from qpipe.ops.work import NodeWork, Work

if TYPE_CHECKING:
    import torch

    from qpipe.arith.spec import QuantSpec
    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class Mul(Unweighted):
    """Both factors on power-of-two grids: the integers multiply, the exponents add, and one rounding follows."""

    op_types = ("Mul",)
    role = Role.JOIN
    ends_float = True
    standard_forms = (StandardForm("QLinearMul", "Mul", slice(0, 6, 3)),)

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Two activations; either may be broadcast."""
        if any(constant_array(value) is not None for value in node.inputs):
            return Refusal(constant_advice(node))
        return rank_refusal(node)

    def operands(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """Both."""
        return tuple(value for value in node.inputs if value is not None)

    def work(self, node: ir.Node) -> NodeWork:
        """Each factor's gradient is the error times the other."""
        return NodeWork(Work(multiply=1), backward=Work(multiply=2))

    def torch(self, node: ir.Node) -> TorchFunction:
        """`(a, b) -> a b`."""

        def run(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a * b

        return run

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """The product, in the product of both steps."""
        a, b = sources
        return Exact(a * b, _unit([q.grid for q in layer.sources]))

    def distance(self, sources: Sequence[QuantSpec]) -> str | None:
        """Only exponents that float32 can't hold are in the way."""
        if abs(_unit(sources)) <= MAX_PRODUCT_EXPONENT:
            return None
        exponents = " and ".join(str(spec.exponent) for spec in sources)
        return f"its operands' exponents are {exponents}, expected a sum of at most {MAX_PRODUCT_EXPONENT} in magnitude"

    def prove(self, layer: RequantizedLayer, *, check_pairs: bool) -> Iterator[CertificateRow]:
        """The product is exact in float32, and its quotient by the output's step fits int32."""
        yield factors_row(layer.name, layer.op_type, [q.reach for q in layer.sources], layer.quantizer.rounded_to)

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """QLinearMul."""
        inputs = [*b.quantized_inputs(layer), *b.grid(layer.quantizer.rounded_to)]
        b.finish(layer, b.emit("QLinearMul", inputs, name=layer.name, domain="com.microsoft"))

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """The product of the codes without their zero points, which int32 holds with 15 bits to spare."""
        layout, (x, y) = operand_terms(layer, b)
        shift = layer.quantizer.rounded_to.exponent - _unit([q.grid for q in layer.sources])
        # What is shifted by so much rounds to 0 either way.
        b.finish(layer, x * y, layout, shift=min(shift, MAX_SHIFT), accumulators=ends_of_product(layer))


def _unit(sources: Sequence[QuantSpec]) -> int:
    """The exponent of a product."""
    return sum(spec.exponent for spec in sources)
