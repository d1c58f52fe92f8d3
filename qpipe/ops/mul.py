"""Mul: a gate, such as squeeze-and-excitation's `[N, C, H, W] * [N, C, 1, 1]`, or a constant factor."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.arith.certificate import MAX_PRODUCT_EXPONENT, CertificateRow, factors_row
from qpipe.arith.exact import Exact
from qpipe.arith.namespace import IntArray
from qpipe.arith.quantize import MAX_SHIFT, Requantization, requantization, requantize
from qpipe.arith.symbolic import Symbol
from qpipe.nodes import MICROSOFT
from qpipe.ops.forms import StandardForm
from qpipe.ops.join import Join
from qpipe.ops.work import NodeWork, Work

if TYPE_CHECKING:
    import torch

    from qpipe.arith.spec import QuantSpec
    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder


class Mul(Join):
    """Both factors on power-of-two grids: the integers multiply, the exponents add, and one rounding follows.

    A constant that is one power of two is a change of the exponent.
    """

    op_types = ("Mul",)
    gives_wide = is_product = True
    standard_forms = (StandardForm("QLinearMul", "Mul", slice(0, 6, 3)),)

    def work(self, node: ir.Node) -> NodeWork:
        """Each factor's gradient is the error times the other."""
        return NodeWork(Work(multiply=1), backward=Work(multiply=2))

    def linear_in(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """Either; a number times itself is in neither."""
        return self.operands(node)

    def combine(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """`a b`."""
        return a * b

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """The product, in the product of both steps."""
        a, b = self.integers(layer, sources)
        return Exact(a * b, self._unit(layer.node, [q.grid for q in layer.sources]))

    def distance(self, node: ir.Node, sources: Sequence[QuantSpec]) -> str | None:
        """Only exponents that float32 can't hold are in the way."""
        if abs(self._unit(node, sources)) <= MAX_PRODUCT_EXPONENT:
            return None
        exponents = " and ".join(str(spec.exponent) for spec in self.grids(node, sources))
        return f"its operands' exponents are {exponents}, expected a sum of at most {MAX_PRODUCT_EXPONENT} in magnitude"

    def prove(self, layer: RequantizedLayer, *, check_pairs: bool) -> Iterator[CertificateRow]:
        """The product is exact in float32, and its quotient by the output's step fits int32."""
        grids = self.grids(layer.node, [q.reach for q in layer.sources])
        yield factors_row(layer.name, layer.op_type, grids, layer.quantizer.rounded_to)

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """QLinearMul; to codes of 16 bits, standard operators on int32."""
        if layer.quantizer.rounded_to.is_wide:
            product, constants = self._product(layer, self.steps(layer, b))
            b.finish(layer, requantize(product, constants).astype(layer.quantizer.rounded_to.dtype).handle)
            return
        a, c = self.codes(layer, b)
        inputs = [*a, *c, *b.grid(layer.quantizer.rounded_to)]
        b.finish(layer, b.emit("QLinearMul", inputs, name=layer.name, domain=MICROSOFT))

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """The product of the codes without their zero points, which int32 holds with 15 bits to spare."""
        layout, terms = self.symbols(layer, b)
        product, constants = self._product(layer, terms)
        b.define_symbol(layer, requantize(product, constants), layout)

    def fitted(self, node: ir.Node, sources: Sequence[QuantSpec], output: QuantSpec) -> QuantSpec:
        """Codes of 16 bits hold every product as it is: finer steps than its own tell nothing."""
        unit = self._unit(node, sources)
        return replace(output, exponent=max(output.exponent, unit)) if output.is_wide else output

    def _product(self, layer: RequantizedLayer, terms: Sequence[Symbol | IntArray]) -> tuple[Symbol, Requantization]:
        """What is computed of the operands, codes with their zero points, and how it becomes the layer's output."""
        grids = self.grids(layer.node, [q.grid for q in layer.sources])
        # What is shifted by so much rounds to 0 either way.
        shift = min(layer.quantizer.rounded_to.exponent - sum(grid.exponent for grid in grids), MAX_SHIFT)
        factor = next((int(term.flat[0]) for term in terms if not isinstance(term, Symbol) and term.size == 1), 0)
        if factor > 0:
            ((x, grid),) = (pair for pair in zip(terms, grids, strict=True) if isinstance(pair[0], Symbol))
            assert isinstance(x, Symbol)
            ends = grid.stored_min, grid.stored_max
            return x, requantization(factor, shift, layer.clipped_to, -grid.zero_point, ends)
        first, second = (
            term - grid.zero_point if isinstance(term, Symbol) else term
            for term, grid in zip(terms, grids, strict=True)
        )
        products = [m * n for m, n in itertools.product(*((grid.qmin, grid.qmax) for grid in grids))]
        product = first * second if isinstance(first, Symbol) else second * first
        assert isinstance(product, Symbol)
        return product, requantization(1, shift, layer.clipped_to, 0, (min(products), max(products)))

    def _unit(self, node: ir.Node, sources: Sequence[QuantSpec]) -> int:
        """The exponent of a product."""
        return sum(spec.exponent for spec in self.grids(node, sources))
