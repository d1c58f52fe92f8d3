"""Div of two activations: what is normalized by a sum, a norm or a deviation. See `qpipe.arith.quotient`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qpipe.arith.certificate import MAX_PRODUCT_EXPONENT, CertificateRow
from qpipe.arith.exact import Exact
from qpipe.arith.namespace import AnyArray, IntArray
from qpipe.arith.quotient import quotient_steps
from qpipe.arith.symbolic import BOOL, INT32, Symbol
from qpipe.nodes import static_shape
from qpipe.ops.base import Refusal
from qpipe.ops.float_form import FloatForm, FunctionBody, IntegerForm
from qpipe.ops.join import Join
from qpipe.ops.refused import OR_LEAVE
from qpipe.ops.work import FUNCTION, NodeWork, Work

if TYPE_CHECKING:
    import torch

    from qpipe.arith.spec import QuantSpec
    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction

_WORK = NodeWork(FUNCTION, backward=Work(multiply=3))
_MOST_FINER = 22  # runtimes round 255 * 2**22 to an int32 before they saturate it
_SMALLEST = 2.0**-60
"""What a divisor of 0 is taken for before it has a grid."""


class IntegerDiv(IntegerForm):
    """What a Div is in a finalized file: real numbers on two grids, of whose quotient the quantizer rounds.

    Its constant: the step of the divisor (float32), which a divisor of 0 counts as.
    """

    op_types = ("IntegerDiv",)
    operand_names = ("x", "divisor")
    parameter_names = ("step",)

    def operands(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """Both."""
        return tuple(value for value in node.inputs[:2] if value is not None)

    def work(self, node: ir.Node) -> NodeWork:
        """That of a Div."""
        return _WORK

    def body(self, b: FunctionBody, x: ir.Value, constants: dict[str, ir.Value]) -> ir.Value:
        """A Div by what is not 0."""
        divisor, step = constants["divisor"], constants["step"]
        is_zero = b.node("Equal", [divisor, b.operand(np.array(0, np.float32), ())], BOOL)
        return b.node("Div", [x, b.node("Where", [is_zero, step, divisor])])

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """The quotient, in that of both steps."""
        a, b = sources
        return Exact(a, _unit([q.grid for q in layer.sources]), np.where(b == 0, 1, b))

    def prove(self, layer: RequantizedLayer, *, check_pairs: bool) -> Iterator[CertificateRow]:
        """Both operands have 8 bits, and the constant is the divisor's step."""
        grids, step = [q.grid for q in layer.sources], float(self.constant(layer.node, "step"))
        problems = [] if (problem := _beyond(grids)) is None else [problem]
        if (finer := _unit(grids) - layer.quantizer.rounded_to.exponent) > _MOST_FINER:
            problems.append(f"its result's steps are 2**{finer} below those of a quotient, expected {_MOST_FINER}")
        if step != grids[1].scale:
            problems.append(f"its step is {step:g}, expected the divisor's, {grids[1].scale:g}")
        bits = max(spec.bits for spec in (*grids, layer.quantizer.rounded_to))
        if any(spec.is_wide for spec in (*grids, layer.quantizer.rounded_to)):
            problems.append(f"it has codes of {bits} bits, expected 8")
        yield CertificateRow(layer.name, layer.op_type, f"-/{bits}", problems=tuple(problems))

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """Standard operators on int32."""
        emitter = b.steps(layer.name)
        codes = self._codes(layer, *(Symbol(emitter, b.codes(q), q.grid.dtype) for q in layer.sources))
        b.finish(layer, codes.astype(layer.quantizer.rounded_to.dtype).handle)

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """Standard operators on int32."""
        layout = b.common_layout(layer.sources)
        operands = (b.symbol(b.codes(q, layout), q.codes, layout, q.grid.dtype) for q in layer.sources)
        b.define_symbol(layer, self._codes(layer, *operands), layout)

    def _codes(self, layer: RequantizedLayer, first: Symbol, second: Symbol) -> Symbol:
        """int32 codes of what the quantizer rounds to, its activation included, from those of both operands."""
        grids, spec = [q.grid for q in layer.sources], layer.clipped_to
        a, b = (codes.astype(INT32) - grid.zero_point for codes, grid in zip((first, second), grids, strict=True))
        found = quotient_steps(a, b, _unit(grids) - spec.exponent, signed=grids[1].qmin < 0)
        return found.clip(spec.qmin, spec.qmax) + spec.zero_point


class Div(FloatForm, Join):
    """Of a float graph, and of one that can be trained."""

    op_types = ("Div",)
    integer_form = IntegerDiv()

    def linear_in(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """The dividend, where it is computed and is not the divisor as well."""
        dividend, divisor = node.inputs[:2]
        return () if dividend is None or dividend is divisor or dividend not in self.operands(node) else (dividend,)

    def refusal(self, node: ir.Node) -> Refusal | None:
        """A divisor of many numbers.

        From image to image one number may differ by more than 8 bits tell apart, and its node is small (a licence plate
        reader that divides by its mean square has 14.9 dB so, and 9.1 in integers).
        """
        if self.fixed_operands(node):
            return Refusal(f"one of its operands is constant, and has no finite reciprocal: {OR_LEAVE[3:]}")
        if (refusal := super().refusal(node)) is not None:
            return refusal
        shape = static_shape(node.inputs[1])
        if shape is None or all(size == 1 for size in shape[1:]):
            return Refusal(f"it divides by one number of each image, which 8 bits hold badly: {OR_LEAVE[3:]}")
        return None

    def work(self, node: ir.Node) -> NodeWork:
        """A quotient; its gradients."""
        return _WORK

    def distance(self, node: ir.Node, sources: Sequence[QuantSpec]) -> str | None:
        """Only exponents that float32 can't hold are in the way."""
        return _beyond(sources)

    def fitted(self, node: ir.Node, sources: Sequence[QuantSpec], output: QuantSpec) -> QuantSpec:
        """No finer than the shift that is exact."""
        return replace(output, exponent=max(output.exponent, _unit(sources) - _MOST_FINER))

    def combine(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """`a / b`."""
        return _divide(_SMALLEST)(a, b)

    def simulated(self, layer: RequantizedLayer) -> TorchFunction:
        """The same, with the step that counts for 0."""
        return _divide(layer.sources[1].grid.scale)

    def constants(self, layer: RequantizedLayer) -> dict[str, AnyArray]:
        """The divisor's step."""
        return {"step": np.array(layer.sources[1].grid.scale, np.float32)}


def _divide(for_zero: float) -> TorchFunction:
    def run(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a / b.masked_fill(b == 0, for_zero)

    return run


def _unit(grids: Sequence[QuantSpec]) -> int:
    """The exponent of a quotient of integers."""
    return grids[0].exponent - grids[1].exponent


def _beyond(grids: Sequence[QuantSpec]) -> str | None:
    """Why the quotient of the steps is beyond float32; None where it is not."""
    if abs(_unit(grids)) <= MAX_PRODUCT_EXPONENT:
        return None
    exponents = " and ".join(str(spec.exponent) for spec in grids)
    return f"its operands' exponents are {exponents}, expected a distance of at most {MAX_PRODUCT_EXPONENT}"
