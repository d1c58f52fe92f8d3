"""ReduceL2 over few numbers: the magnitude of a spectrum, of its real and its imaginary part.

y = sqrt(x1**2 + x2**2)        rounded once: squares on a grid of 8 bits would lose half of the range in bits
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.certificate import MAX_PRODUCT_EXPONENT, CertificateRow
from qpipe.arith.exact import Exact
from qpipe.arith.multiplier import FLOAT32_EXACT
from qpipe.arith.namespace import IntArray
from qpipe.arith.symbolic import INT32, UINT8
from qpipe.ops.base import Refusal
from qpipe.ops.float_functions import vector_length
from qpipe.ops.reduction import Reduction, axes, count, keeps_axes
from qpipe.ops.work import FUNCTION, NodeWork, Work

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.ops.base import TorchFunction

MOST: Final = 4
"""Numbers of which it is one: so many squares of codes have a table of their roots."""


class Length(Reduction):
    """The root of the exact sum of squares: a table that this sum looks up.

    In float32 the root that a runtime rounds is no tie of 8 bits where the exact one is none: a sum of squares differs
    from the square of one by 1 step or more, and the roots so by 2**-11 of a step of the result.
    """

    op_types = ("ReduceL2",)

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Of more numbers it is spelled as squares, a sum and a root."""
        refused = super().refusal(node)
        if refused is not None or (count(node) or MOST + 1) <= MOST:
            return refused
        return Refusal(f"it is the length of more than {MOST} numbers: sums and roots have an integer form")

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """It is not negative."""
        return False

    def work(self, node: ir.Node) -> NodeWork | None:
        """Squares, their sum, and a root; backward each number by the result."""
        numbers = count(node)
        if numbers is None:
            return None
        return NodeWork(FUNCTION + Work(multiply=numbers, add=numbers - 1), backward=Work(multiply=2))

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x -> sqrt(sum(x**2))`."""
        found, keeps = list(axes(node)), keeps_axes(node)

        def run(x: torch.Tensor) -> torch.Tensor:
            return vector_length(x, found, keepdim=keeps)

        return run

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """The nearest float64 to the root of the sum."""
        (x,), node = sources, layer.node
        total = np.square(x.astype(np.int64)).sum(axis=axes(node), keepdims=keeps_axes(node))
        return Exact(np.sqrt(total.astype(np.float64)), layer.sources[0].grid.exponent)

    def prove(self, layer: RequantizedLayer, *, check_pairs: bool) -> Iterator[CertificateRow]:
        """float32 holds the sum of squares."""
        source, numbers, problems = layer.sources[0].reach, count(layer.node), list[str]()
        if numbers is None or numbers * source.largest**2 > FLOAT32_EXACT:
            problems.append(f"adds up the squares of {numbers} numbers, whose sum is over 2**24")
        exponents = 2 * source.exponent, layer.quantizer.rounded_to.exponent
        if max(map(abs, exponents)) > MAX_PRODUCT_EXPONENT:
            problems.append(f"its exponents are {exponents}, expected {MAX_PRODUCT_EXPONENT} at most in magnitude")
        yield CertificateRow(layer.name, layer.op_type, f"-/{source.bits}", problems=tuple(problems))

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """The sum of squares of codes looks up its root's code; one beyond the last looks up that."""
        source, target, numbers = layer.sources[0], layer.clipped_to, count(layer.node)
        assert numbers is not None
        codes = b.symbol(b.cast(b.codes(source), INT32), source.codes, "NCHW") - source.grid.zero_point
        total = (codes * codes).sum(axes(layer.node), keepdims=keeps_axes(layer.node))
        sums = np.arange(numbers * source.reach.largest**2 + 1)
        found = Exact(np.sqrt(sums.astype(np.float64)), source.grid.exponent).rounded(target) + target.zero_point
        last = int(np.argmax(found == found[-1]))
        table = b.shared(found[: last + 1].astype(np.uint8))
        looked_up = b.node("Gather", [table, total.minimum(last).handle], UINT8)
        b.define_rounded(layer.quantizer, looked_up, "NCHW")
