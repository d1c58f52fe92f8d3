"""Add: the residual, and what is added to an activation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.arith.certificate import MAX_EXPONENT_DISTANCE, CertificateRow, add_row, wide_sum_problem
from qpipe.arith.exact import Exact
from qpipe.arith.namespace import IntArray
from qpipe.arith.quantize import Requantization, requantization, requantize
from qpipe.arith.symbolic import Symbol
from qpipe.nodes import MICROSOFT, static_shape
from qpipe.ops.constant_operand import constant_grid
from qpipe.ops.factors import Factors
from qpipe.ops.forms import StandardForm
from qpipe.ops.join import Join
from qpipe.ops.work import NodeWork, Work

if TYPE_CHECKING:
    import torch

    from qpipe.arith.namespace import AnyArray
    from qpipe.arith.spec import QuantSpec
    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder

_FINER = 8  # bits below the operands' steps, which nothing that is rounded behind them shows


class Add(Join):
    """Both operands on power-of-two grids; the sum is exact, and requantized once, after the activation."""

    op_types = ("Add",)
    is_sum = reads_wide = gives_wide = True
    homogeneous = True
    standard_forms: ClassVar[tuple[StandardForm, ...]] = (StandardForm("QLinearAdd", "Add", slice(0, 6, 3)),)
    signs: ClassVar[tuple[int, int]] = (1, 1)
    """Of the operands in the sum."""

    def ends_float(self, node: ir.Node) -> bool:
        """A residual has a grid wherever it stands."""
        shapes = {static_shape(value) for value in self.operands(node)} - {None}
        return bool(self.fixed_operands(node)) or len(shapes) > 1

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """Both operands have the same; a constant one is divided by them."""
        if len(operands) == 2:
            return book.unite(*operands)
        (x,) = operands
        for index, constant in self.fixed_operands(node).items():
            # It is one tensor for all images, and may be shorter than what it is added to.
            if constant.dtype != np.float32:
                return self.without_factors(node, operands, book)
            book.take(node, index, x, -1)
        return x

    def constants_in_unit(self, node: ir.Node) -> list[int]:
        """A constant operand."""
        return list(self.fixed_operands(node))

    def work(self, node: ir.Node) -> NodeWork:
        """Its gradient is both operands'."""
        return NodeWork(Work(add=1))

    def combine(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """`a + b`."""
        return a + b

    def constant_grid(self, array: AnyArray, sources: Sequence[QuantSpec]) -> QuantSpec:
        """So fine that it makes no difference to what is rounded behind the sum."""
        return constant_grid(array, min(spec.exponent for spec in sources) - _FINER)

    def distance(self, node: ir.Node, sources: Sequence[QuantSpec]) -> str | None:
        """The finer operand's steps must reach over the coarser one's."""
        grids = self.grids(node, sources)
        exponents = [spec.exponent for spec in grids]
        if not _are_far(grids):
            return None
        if any(spec.is_wide for spec in grids):
            return wide_sum_problem(grids)
        return (
            f"its operands' exponents are {exponents[0]} and {exponents[1]}, expected at most "
            f"{MAX_EXPONENT_DISTANCE} apart; one of them may be zero in the calibration data"
        )

    def near(self, node: ir.Node, sources: Sequence[QuantSpec]) -> Sequence[QuantSpec]:
        """The finest one coarser, until all steps reach over the coarsest ones."""
        fixed = [self.constant_grid(array, sources) for array in self.fixed_operands(node).values()]
        near = list(sources)
        while _are_far([*near, *fixed]):
            finest = min(range(len(near)), key=lambda i: near[i].exponent)
            if near[finest].exponent >= max(spec.exponent for spec in (*near, *fixed)):
                return sources
            near[finest] = replace(near[finest], exponent=near[finest].exponent + 1)
        return near

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """The sum in the finer operand's steps."""
        exponents = self.exponents(layer)
        unit = min(exponents)
        terms = zip(self.integers(layer, sources), exponents, self.signs, strict=True)
        first, second = (x * (sign << (exponent - unit)) for x, exponent, sign in terms)
        return Exact(first + second, unit)

    def prove(self, layer: RequantizedLayer, *, check_pairs: bool) -> Iterator[CertificateRow]:
        """The sum is exact in float32."""
        grids = self.grids(layer.node, [q.reach for q in layer.sources])
        yield add_row(layer.name, layer.op_type, grids, layer.quantizer.rounded_to)

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """QLinearAdd; of what is subtracted the scale is negative. Of 16 bits, standard operators on int32."""
        if any(grid.is_wide for grid in (*(q.grid for q in layer.sources), layer.quantizer.rounded_to)):
            total, constants = self._sum(layer, self.steps(layer, b))
            b.finish(layer, requantize(total, constants).astype(layer.quantizer.rounded_to.dtype).handle)
            return
        inputs: list[ir.Value] = []
        grids = self.grids(layer.node, [q.grid for q in layer.sources])
        for (codes, _, zero_point), grid, sign in zip(self.codes(layer, b), grids, self.signs, strict=True):
            inputs += [codes, b.scale(grid, sign), zero_point]
        inputs += b.grid(layer.quantizer.rounded_to)
        b.finish(layer, b.emit("QLinearAdd", inputs, name=layer.name, domain=MICROSOFT))

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """The sum in the finer operand's steps, zero points and all; a constant is a part of the bias."""
        layout, terms = self.symbols(layer, b)
        total, constants = self._sum(layer, terms)
        b.define_symbol(layer, requantize(total, constants), layout)

    def _sum(self, layer: RequantizedLayer, terms: Sequence[Symbol | IntArray]) -> tuple[Symbol, Requantization]:
        """What is computed of the operands, codes with their zero points, and how it becomes the layer's output."""
        grids, exponents = self.grids(layer.node, [q.grid for q in layer.sources]), self.exponents(layer)
        unit = min(exponents)
        total: Symbol | None = None
        low, high = 0, 0
        bias: IntArray | int = 0
        for term, grid, sign in zip(terms, grids, self.signs, strict=True):
            steps = sign << (grid.exponent - unit)
            if not isinstance(term, Symbol):
                bias = bias + term * steps
                continue
            total = term * steps if total is None else total + term * steps
            bias = bias - grid.zero_point * steps
            ends = sorted((grid.stored_min * steps, grid.stored_max * steps))
            low, high = low + ends[0], high + ends[1]
        assert total is not None
        shift = layer.quantizer.rounded_to.exponent - unit
        return total, requantization(1, shift, layer.clipped_to, bias, (low, high))

    def exponents(self, layer: RequantizedLayer) -> list[int]:
        """Of both operands' steps."""
        return [grid.exponent for grid in self.grids(layer.node, [q.grid for q in layer.sources])]


def _are_far(grids: list[QuantSpec]) -> bool:
    if any(spec.is_wide for spec in grids):
        return wide_sum_problem(grids) is not None
    exponents = [spec.exponent for spec in grids]
    return max(exponents) - min(exponents) > MAX_EXPONENT_DISTANCE
