"""MatMul of two activations: attention's scores, and its weighted sum of values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qpipe.arith.certificate import INT32_MAX, CertificateRow, weighted_row
from qpipe.arith.exact import Exact, product_type
from qpipe.arith.multiplier import FLOAT32_EXACT, shift_bound
from qpipe.arith.namespace import IntArray
from qpipe.arith.quantize import MAX_SHIFT
from qpipe.arith.spec import STORAGE_MAX, QuantSpec
from qpipe.nodes import rank, static_shape
from qpipe.ops.base import Refusal, Role, Unweighted
from qpipe.ops.factors import Factors
from qpipe.ops.refused import OR_LEAVE
from qpipe.ops.work import NodeWork, Work

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class ActivationMatMul(Unweighted):
    """`y = a b` over the last two axes, the others broadcast; int32 sums of products of codes, requantized once.

    It is a MatMul that `Gemm` does not take. Both operands are uint8 with their zero points, for which no kernel adds
    pairs of products in an int16. A transposed operand is a Transpose before it, which carries integers.
    """

    op_types = ("MatMul",)
    role = Role.JOIN

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Matrices, whose count of products for one result is known: what int32 holds is proven by it."""
        if any((rank(value) or 2) < 2 for value in node.inputs):
            return Refusal(f"one of its operands is a vector, expected matrices: Unsqueeze it before, {OR_LEAVE}")
        count = summands(node)
        if count is None:
            return Refusal(
                "it multiplies two activations, and how many products it sums is open: export the model with a fixed "
                "size of their common axis"
            )
        if count * STORAGE_MAX**2 > INT32_MAX:
            return Refusal(
                f"it sums {count} products of two activations, which are beyond int32: {OR_LEAVE.removeprefix('or ')}"
            )
        return None

    def linear_in(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """Either."""
        return self.operands(node)

    def ends_float(self, node: ir.Node) -> bool:
        """It does."""
        return True

    def operands(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """Both."""
        return tuple(value for value in node.inputs if value is not None)

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """Of an operand beside one that stays, rows or columns keep theirs; else the sums stay.

        A sum of `a[k] b[k]` is the same where b is multiplied by what divides a.
        """
        a, b = operands
        if book.is_one(a):
            return _aligned(book.over(b, [-2]), a.ndim)
        if book.is_one(b):
            return _aligned(book.over(a, [-1]), b.ndim)
        book.unite(book.over(a, [-2]), -np.swapaxes(book.over(b, [-1]), -1, -2))
        return np.zeros([1] * max(a.ndim, b.ndim), np.int64)

    def macs(self, node: ir.Node) -> int | None:
        """K."""
        return summands(node)

    def work(self, node: ir.Node) -> NodeWork | None:
        """Of each sum its products; the gradients of both operands are as many each."""
        count = summands(node)
        if count is None:
            return None
        return NodeWork(Work(multiply=count, add=count - 1), backward=Work(multiply=2 * count, add=2 * (count - 1)))

    def torch(self, node: ir.Node) -> TorchFunction:
        """`(a [..., M, K], b [..., K, N]) -> [..., M, N]`."""

        def run(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            # Evaluation, in which nothing has a gradient, is exact: float32 holds so many products of codes.
            trains = a.requires_grad or b.requires_grad
            if trains or a.shape[-1] * STORAGE_MAX**2 <= FLOAT32_EXACT:
                return a @ b
            return a.double() @ b.double()

        return run

    def fitted(self, node: ir.Node, sources: Sequence[QuantSpec], output: QuantSpec) -> QuantSpec:
        """No coarser than the shift that is exact: what is lost of the range, the sum does not reach.

        Of operands that are all but zero in the calibration data.
        """
        largest = (summands(node) or 0) * math.prod(spec.largest for spec in sources)
        most = MAX_SHIFT if largest <= FLOAT32_EXACT else shift_bound(output)
        coarsest = sum(spec.exponent for spec in sources) + most
        return replace(output, exponent=min(output.exponent, coarsest))

    def prove(self, layer: RequantizedLayer, *, check_pairs: bool) -> Iterator[CertificateRow]:
        """A product whose weights could be the largest codes everywhere; uint8 has no pairs."""
        a, b = (q.reach for q in layer.sources)
        output, count = layer.quantizer.rounded_to, summands(layer.node) or 0
        row = weighted_row(
            layer.name,
            layer.op_type,
            rows=np.full((1, count), b.largest),
            bits=b.bits,
            multiplier=np.ones(1, np.int64),
            shift=np.array([output.exponent - a.exponent - b.exponent]),
            bias=np.zeros(1, np.int64),
            source=a,
            output=output,
            check_pairs=False,
            fuses=True,
        )
        yield replace(row, channels=None, by_shift=None, by_float32=None, multiplier_bits=None, unsafe_pairs=None)

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """The sums, in units of `2**(l_a + l_b)`."""
        a, b = sources
        kind = product_type(np.swapaxes(b, -1, -2), int(np.abs(a).max(initial=0)))
        sums = (a.astype(kind) @ b.astype(kind)).astype(np.float64)
        return Exact(sums, sum(q.grid.exponent for q in layer.sources))

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """QLinearMatMul."""
        inputs = [*b.quantized_inputs(layer), *b.grid(layer.quantizer.rounded_to)]
        b.finish(layer, b.emit("QLinearMatMul", inputs, name=layer.name))

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """MatMulInteger, uint8 by uint8."""
        left, right = layer.sources
        sums = b.node(
            "MatMulInteger",
            [b.codes(left), b.codes(right), *(b.shared(np.uint8(q.grid.zero_point)) for q in layer.sources)],
            np.dtype(np.int32),
        )
        largest = (summands(layer.node) or 0) * left.grid.largest * right.grid.largest
        b.finish(
            layer,
            b.symbol(sums, layer.output, "NCHW"),
            "NCHW",
            shift=layer.quantizer.rounded_to.exponent - left.grid.exponent - right.grid.exponent,
            accumulators=(-largest if left.grid.is_signed or right.grid.is_signed else 0, largest),
        )


def _aligned(factors: IntArray, dims: int) -> IntArray:
    """With so many axes at least, as matrices of fewer are broadcast."""
    return factors.reshape((1,) * max(dims - factors.ndim, 0) + factors.shape)


def summands(node: ir.Node) -> int | None:
    """K: how many products one result sums; None where it is unknown."""
    a, b = (static_shape(value) for value in node.inputs[:2])
    found: list[int | None] = [a[-1] if a else None, b[-2] if b is not None and len(b) > 1 else None]
    return next((size for size in found if size is not None), None)
