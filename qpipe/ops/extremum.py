"""Max and Min of two activations, or of one and a tensor of constants."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qpipe.arith.certificate import CertificateRow, add_row
from qpipe.arith.exact import Exact
from qpipe.arith.namespace import IntArray
from qpipe.arith.symbolic import Symbol
from qpipe.ops.add import Add
from qpipe.ops.work import NodeWork, Work

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder


class Extremum(Add):
    """One of the two in the finer one's steps, as an Add brings them together; then rounded once."""

    standard_forms = ()
    is_sum = False

    @abstractmethod
    def choose(self, a: IntArray, b: IntArray) -> IntArray:
        """Of integers of one unit."""

    @abstractmethod
    def choose_symbol(self, a: Symbol, b: Symbol | IntArray) -> Symbol:
        """The same, as a node."""

    def ends_float(self, node: ir.Node) -> bool:
        """It does."""
        return True

    def work(self, node: ir.Node) -> NodeWork:
        """The gradient is that of the operand that was chosen."""
        return NodeWork(Work(compare=1), backward=Work(compare=1))

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """The one that is chosen, in the finer operand's steps."""
        exponents = self.exponents(layer)
        unit = min(exponents)
        a, b = (x << (e - unit) for x, e in zip(self.integers(layer, sources), exponents, strict=True))
        return Exact(self.choose(a, b), unit)

    def prove(self, layer: RequantizedLayer, *, check_pairs: bool) -> Iterator[CertificateRow]:
        """Where a sum would be exact, so is this."""
        grids = self.grids(layer.node, [q.reach for q in layer.sources])
        yield add_row(layer.name, layer.op_type, grids, layer.quantizer.rounded_to)

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """A float island: what it chooses are exact numbers."""
        name, float32 = layer.name, ir.DataType.FLOAT
        real = [
            b.emit("DequantizeLinear", inputs, name=f"{name}_dequantize{index}", dtype=float32)
            for index, inputs in enumerate(self.codes(layer, b))
        ]
        chosen = b.emit(layer.op_type, real, name=name, dtype=float32)
        grid = b.grid(layer.quantizer.rounded_to)
        b.finish(layer, b.emit("QuantizeLinear", [chosen, *grid], name=f"{name}_quantize"))

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """Max or Min of int32."""
        layout, terms = self.symbols(layer, b)
        grids, unit = self.grids(layer.node, [q.grid for q in layer.sources]), min(self.exponents(layer))
        same: list[Symbol | IntArray] = []
        for term, grid in zip(terms, grids, strict=True):
            zero = grid.zero_point if isinstance(term, Symbol) else 0
            same.append((term - zero) * (1 << (grid.exponent - unit)))
        first, second = same if isinstance(same[0], Symbol) else same[::-1]
        assert isinstance(first, Symbol)
        ends = [(g.qmin << (g.exponent - unit), g.qmax << (g.exponent - unit)) for g in grids]
        accumulators = min(low for low, _ in ends), max(high for _, high in ends)
        shift = layer.quantizer.rounded_to.exponent - unit
        b.finish(layer, self.choose_symbol(first, second), layout, shift=shift, accumulators=accumulators)


class Max(Extremum):
    """The larger."""

    op_types = ("Max",)

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """Not negative where one operand is not."""
        if False in inputs:
            return False
        return None if None in inputs else True

    def combine(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """`max(a, b)`."""
        return a.maximum(b)

    def choose(self, a: IntArray, b: IntArray) -> IntArray:
        """The larger."""
        return np.maximum(a, b)

    def choose_symbol(self, a: Symbol, b: Symbol | IntArray) -> Symbol:
        """The larger."""
        return a.maximum(b)


class Min(Extremum):
    """The smaller."""

    op_types = ("Min",)

    def combine(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """`min(a, b)`."""
        return a.minimum(b)

    def choose(self, a: IntArray, b: IntArray) -> IntArray:
        """The smaller."""
        return np.minimum(a, b)

    def choose_symbol(self, a: Symbol, b: Symbol | IntArray) -> Symbol:
        """The smaller."""
        return a.minimum(b)
