"""Softmax along the last axis, in integers: see `qpipe.arith.softmax`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qpipe.arith.certificate import CertificateRow
from qpipe.arith.exact import Exact
from qpipe.arith.namespace import AnyArray, IntArray
from qpipe.arith.softmax import LONGEST_ROW, SUM_BITS, exponentials, softmax_parts, softmax_steps
from qpipe.arith.symbolic import INT32, UINT8, Symbol
from qpipe.nodes import int_attribute, static_shape
from qpipe.ops.base import Refusal
from qpipe.ops.float_form import FloatForm, FunctionBody, IntegerForm, straight_through
from qpipe.ops.forms import StandardForm
from qpipe.ops.refused import OR_LEAVE
from qpipe.ops.work import FUNCTION, NodeWork, Work

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction

_WORK = NodeWork(FUNCTION + Work(multiply=1, add=2, compare=1), backward=Work(multiply=2, add=2))


class IntegerSoftmax(IntegerForm):
    """What a Softmax is in a finalized file.

    Its constants: the step of the codes that it reads (float32), the table (int32 `[256]`), how many steps of the
    result are 1 (int32), and such a step (float32).
    """

    op_types = ("IntegerSoftmax",)
    parameter_names = ("scale", "table", "steps", "step")

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """Never negative."""
        return False

    def work(self, node: ir.Node) -> NodeWork:
        """That of a Softmax."""
        return _WORK

    def body(self, b: FunctionBody, x: ir.Value, constants: dict[str, ir.Value]) -> ir.Value:
        """Codes, parts, quotients."""
        table, steps = (Symbol(b, constants[name]) for name in ("table", "steps"))
        return b.real(softmax_steps(b.codes(x, constants["scale"]), table, steps), constants["step"])

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """The quotient of both parts."""
        numerators, total = softmax_parts(sources[0], self._table(layer))
        return Exact(numerators, 0, total)

    def prove(self, layer: RequantizedLayer, *, check_pairs: bool) -> Iterator[CertificateRow]:
        """Sums and products of a row are within int32, and the constants are those of the grids beside it."""
        source, output, table = layer.sources[0].grid, layer.quantizer.rounded_to, self._table(layer)
        count = _count(layer.node)
        problems = []
        if count is None:
            problems.append("the length of its rows is open, expected a fixed one")
        elif not (table.min() >= 0 and 0 < table[0] == table.max() and int(table[0]) * count <= 2**SUM_BITS):
            problems.append(f"a table from {table[0]} down to {table.min()}, whose sums of {count} leave int32")
        steps = int(self.constant(layer.node, "steps"))
        scale, step = (float(self.constant(layer.node, name)) for name in ("scale", "step"))
        if (scale, step) != (source.scale, output.scale) or steps * step != 1:
            problems.append(f"its steps are {scale:g} and {step:g}, expected {source.scale:g} and {output.scale:g}")
        elif int(table[0]) * steps > 2**SUM_BITS:
            problems.append(f"its products, up to {int(table[0]) * steps}, leave int32")
        largest = None if count is None else int(table[0]) * count
        yield CertificateRow(
            layer.name, layer.op_type, f"-/{source.bits}", largest_accumulator=largest, problems=tuple(problems)
        )

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """Standard operators on int32."""
        codes = Symbol(b.steps(layer.name), b.codes(layer.sources[0]), UINT8)
        b.finish(layer, self._codes(layer, codes).astype(UINT8).handle)

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """Standard operators on int32."""
        source = layer.sources[0]
        codes = b.symbol(b.codes(source), source.codes, "NCHW", UINT8)
        b.define_symbol(layer, self._codes(layer, codes), "NCHW")

    def _codes(self, layer: RequantizedLayer, codes: Symbol) -> Symbol:
        """int32 codes of what the quantizer rounds to, its activation included."""
        spec = layer.clipped_to
        found = softmax_steps(codes.astype(INT32), self._table(layer), int(self.constant(layer.node, "steps")))
        return found.minimum(spec.qmax) + spec.zero_point

    def _table(self, layer: RequantizedLayer) -> IntArray:
        return self.constant(layer.node, "table").astype(np.int64)


class Softmax(FloatForm):
    """Of a float graph, and of one that can be trained."""

    op_types = ("Softmax",)
    # Other tools' files have it.
    standard_forms = (StandardForm("QLinearSoftmax", "Softmax", slice(0, 1)),)
    integer_form = IntegerSoftmax()

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Rows along the last axis, of a length that is known: what int32 holds is proven by it."""
        shape, axis = static_shape(node.inputs[0]), int_attribute(node, "axis", -1)
        if shape is None or axis not in {-1, len(shape) - 1}:
            return Refusal(f"its axis is {axis}, expected the last one: Transpose before and behind it, {OR_LEAVE}")
        if shape[-1] is None:
            return Refusal(f"the length of its rows is open: export the model with a fixed last axis, {OR_LEAVE}")
        if shape[-1] > LONGEST_ROW:
            return Refusal(
                f"its rows have {shape[-1]} numbers, expected at most {LONGEST_ROW}: shorten them, {OR_LEAVE}"
            )
        return None

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """Never negative."""
        return False

    def work(self, node: ir.Node) -> NodeWork:
        """An exponential, a sum, a quotient."""
        return _WORK

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x -> softmax(x)` along the last axis."""
        return lambda x: x.softmax(-1)

    def simulated(self, layer: RequantizedLayer) -> TorchFunction:
        """The quotients of the integer form, with the gradient of softmax."""
        source, table = layer.sources[0].grid, self.constants(layer)["table"]

        def exact(x: torch.Tensor) -> torch.Tensor:
            import torch

            codes = (x.double() / source.scale).round().to(torch.int64).clamp(source.qmin, source.qmax)
            numerators, total = softmax_parts(codes, table)
            return numerators.double() / total.double()

        return straight_through(lambda x: x.softmax(-1), exact)

    def constants(self, layer: RequantizedLayer) -> dict[str, AnyArray]:
        """Of the grids on both sides."""
        source, output = layer.sources[0].grid, layer.quantizer.rounded_to
        return {
            "scale": np.array(source.scale, np.float32),
            "table": exponentials(source, output, _count(layer.node) or LONGEST_ROW).astype(np.int32),
            "steps": np.array(2**-output.exponent, np.int32),
            "step": np.array(output.scale, np.float32),
        }


def _count(node: ir.Node) -> int | None:
    """How many numbers a row has."""
    shape = static_shape(node.inputs[0])
    return None if not shape else shape[-1]
