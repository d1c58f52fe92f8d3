"""Where: of two numbers one, by what is compared, by a mask, or by any And, Or and Not of these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qpipe.arith.certificate import MAX_PRODUCT_EXPONENT, CertificateRow
from qpipe.arith.exact import Exact
from qpipe.arith.namespace import AnyArray, Float64Array, IntArray
from qpipe.arith.quantize import MAX_SHIFT, on_grid
from qpipe.arith.spec import QuantSpec
from qpipe.arith.symbolic import INT32, UINT8, Symbol
from qpipe.nodes import rank
from qpipe.ops.base import Refusal, Role, Unweighted
from qpipe.ops.condition import Condition, Number, condition_of
from qpipe.ops.constant_operand import ConstantOperand, constant_grid, constant_of, read_constant, real_constant
from qpipe.ops.factors import Factors
from qpipe.ops.refused import OR_LEAVE
from qpipe.ops.work import NodeWork, Work

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.qdq import ActivationQuantizer
    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction

_CHOICES = (1, 2)
"""Indices of the inputs that are chosen from."""


class Where(Unweighted):
    """`y = x1 where the condition holds, else x2`: what is chosen is exact, and rounded once.

    Its condition is a part of it, down to the numbers that this compares (see `qpipe.ops.condition`). In a lowered
    graph both operands are brought to the result's grid first: to round what is chosen is to choose of what is rounded.
    """

    op_types = ("Where",)
    role = Role.JOIN

    def refusal(self, node: ir.Node) -> Refusal | None:
        """A condition of numbers that have no grid, or operands that do not meet axis by axis."""
        asked = condition_of(node.inputs[0])
        if asked is None or not asked.is_only_of(node):
            return Refusal(f"its condition is more than its own comparisons of activations, and masks: {OR_LEAVE[3:]}")
        operands, constants = self.operands(node), self.fixed_operands(node)
        if not operands:
            return Refusal(f"it chooses from constants by a constant: take it out, {OR_LEAVE}")
        if any(not np.isfinite(array).all() for array in constants.values()):
            return Refusal(f"one of its operands is infinite: put a finite number in its place, {OR_LEAVE}")
        ranks = {dims for value in operands if (dims := rank(value)) is not None}
        most = max([array.ndim for array in (*constants.values(), *asked.constants)], default=0)
        if len(ranks) > 1 or (ranks and most > min(ranks)):
            return Refusal(
                f"its operands have {min(ranks)} and {max(most, *ranks)} dimensions: unsqueeze those that have fewer"
            )
        return None

    def ends_float(self, node: ir.Node) -> bool:
        """It does."""
        return True

    def within(self, node: ir.Node) -> tuple[ir.Node, ...]:
        """What computes its condition."""
        condition = condition_of(node.inputs[0])
        return () if condition is None else condition.nodes

    def operands(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """The numbers that its condition asks, then those that it chooses from and that are computed; each once."""
        condition = condition_of(node.inputs[0])
        if condition is None:
            return tuple(value for value in node.inputs if value is not None)
        return tuple(dict.fromkeys((*condition.numbers, *self.passed(node))))

    def passed(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """Those that it chooses from."""
        values = (node.inputs[index] for index in _CHOICES)
        return tuple(value for value in values if value is not None and constant_of(value) is None)

    def takes_wide(self, node: ir.Node) -> bool:
        """As far as int32 holds both of what is compared."""
        return not _condition(node).compares_two

    def is_homogeneous(self, node: ir.Node) -> bool:
        """Where what it passes is compared with nothing but that, and 0: one third stays one third."""
        condition = condition_of(node.inputs[0])
        return condition is not None and condition.stays_by_a_factor(self.passed(node))

    def fixed_operands(self, node: ir.Node) -> Mapping[int, AnyArray]:
        """Constants that it chooses from."""
        arrays = {index: constant_of(node.inputs[index]) for index in _CHOICES}
        return {index: array for index, array in arrays.items() if array is not None}

    def constant_grid(self, array: AnyArray, sources: Sequence[QuantSpec]) -> QuantSpec:
        """The finest that there is."""
        return constant_grid(array)

    def constants_in_unit(self, node: ir.Node) -> list[int]:
        """All of them; what a number is compared with keeps that number's unit."""
        return list(self.fixed_operands(node))

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """What is chosen from has the same; a constant is divided by them, and what is asked stays."""
        given = dict(zip(self.operands(node), operands, strict=True))
        book.fix(*(given[value] for value in _condition(node).numbers))
        chosen, fixed = [given[value] for value in self.passed(node)], self.fixed_operands(node)
        if not chosen or any(array.dtype != np.float32 for array in fixed.values()):
            return self.without_factors(node, operands, book)
        for index in fixed:
            book.take(node, index, chosen[0], -1)
        return chosen[0] if len(chosen) == 1 else book.unite(*chosen)

    def work(self, node: ir.Node) -> NodeWork:
        """The gradient is that of the operand that was chosen."""
        return NodeWork(Work(compare=1), backward=Work(compare=1))

    def torch(self, node: ir.Node) -> TorchFunction:
        """`(numbers of the condition, operands) -> y`, those that are computed, each once."""
        import torch

        condition, values = _condition(node), self.operands(node)
        fixed = {i: torch.from_numpy(real_constant(node.inputs[i])) for i in self.fixed_operands(node)}  # type: ignore[arg-type]
        passed = self.passed(node)

        def run(*tensors: torch.Tensor) -> torch.Tensor:
            given = dict(zip(values, tensors, strict=True))
            like = given[passed[0]] if passed else tensors[0]
            holds = condition.holds(given.__getitem__, lambda array: torch.tensor(array, device=like.device))
            x, y = (
                fixed[i].to(like.device, like.dtype) if i in fixed else given[node.inputs[i]]  # type: ignore[index]
                for i in _CHOICES
            )
            return x.where(holds, y)

        return run

    def fitted(self, node: ir.Node, sources: Sequence[QuantSpec], output: QuantSpec) -> QuantSpec:
        """Of two constants a grid that holds both."""
        if self.passed(node):
            return output
        ends = [float(end) for array in self.fixed_operands(node).values() for end in (array.min(), array.max())]
        while not output.qmin * output.scale <= min(ends) <= max(ends) <= output.qmax * output.scale:
            if output.exponent > MAX_PRODUCT_EXPONENT:
                break
            output = replace(output, exponent=output.exponent + 1)
        return output

    def prove(self, layer: RequantizedLayer, *, check_pairs: bool) -> Iterator[CertificateRow]:
        """Numbers on grids are exact in float32, and so is what is chosen, in steps of the result."""
        target, problems = layer.quantizer.rounded_to, list[str]()
        grids = [self._constant(layer.node, i).grid for i in self.fixed_operands(layer.node)]
        grids += [q.grid for q in layer.sources]
        for grid in grids:
            if abs(grid.exponent - target.exponent) > MAX_PRODUCT_EXPONENT:
                problems.append(f"its operands' exponents are {grid.exponent} and its result's {target.exponent}")
        bits = max(grid.bits for grid in (*grids, target))
        yield CertificateRow(layer.name, layer.op_type, f"-/{bits}", problems=tuple(problems))

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """What is chosen, each operand in its own steps."""
        node, grids = layer.node, [q.grid for q in layer.sources]
        given = dict(zip(self.operands(node), zip(sources, grids, strict=True), strict=True))

        def real(value: ir.Value) -> Float64Array:
            x, grid = given[value]
            return np.asarray(np.ldexp(x.astype(np.float64), grid.exponent))

        holds = _condition(node).holds(real, lambda array: array if array.dtype == np.bool_ else array.astype(float))
        parts = []
        for index in _CHOICES:
            value = node.inputs[index]
            assert value is not None
            if value in given:
                parts.append((given[value][0], given[value][1].exponent))
            else:
                constant = self._constant(node, index)
                parts.append((constant.integers, constant.grid.exponent))
        (x, of_x), (y, of_y) = parts
        return Exact(np.where(holds, x, y), np.where(holds, of_x, of_y))

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """Where of codes."""
        target, emitter = layer.quantizer.rounded_to, b.steps(layer.name)
        given = self._given(layer)

        def number(value: ir.Value) -> Number:
            grid = given[value].grid
            return Symbol(emitter, b.codes(given[value]), grid.dtype), grid

        holds, both = _condition(layer.node).write(emitter, number, lambda array: array), list[ir.Value]()
        for index in _CHOICES:
            name = f"{layer.name}_operand{index}"
            source = given.get(layer.node.inputs[index])
            if source is None:
                both.append(b.constant(name, self._codes(layer.node, index, target)))
            elif _is_same(source.grid, target):
                both.append(b.codes(source))
            else:
                both.append(b.move(b.codes(source), source.grid, target, name))
        b.finish(layer, b.emit("Where", [holds, *both], name=layer.name))

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """Where of codes."""
        target, layout, dims = layer.clipped_to, b.common_layout(layer.sources), rank(layer.sources[0].codes)
        given = self._given(layer)

        def arrange(array: AnyArray) -> AnyArray:
            return b.arrange(array.reshape((1,) * ((dims or array.ndim) - array.ndim) + array.shape), layout)

        def number(value: ir.Value) -> Number:
            q = given[value]
            return b.symbol(b.codes(q, layout), q.codes, layout, q.grid.dtype), q.grid

        holds, both = _condition(layer.node).write(b, number, arrange), list[ir.Value]()
        for index in _CHOICES:
            value = layer.node.inputs[index]
            if value is None or value not in given:
                both.append(b.operand(arrange(self._codes(layer.node, index, target)), ()))
                continue
            codes, grid = number(value)
            if not _is_same(grid, target):
                codes = on_grid(codes.astype(INT32), grid, target, most=MAX_SHIFT).astype(UINT8)
            elif not target.stored_min <= grid.stored_min <= grid.stored_max <= target.stored_max:
                codes = codes.clip(target.stored_min, target.stored_max)
            both.append(codes.handle)
        b.define_rounded(layer.quantizer, b.node("Where", [holds, *both]), layout)

    def _given(self, layer: RequantizedLayer) -> dict[ir.Value | None, ActivationQuantizer]:
        return dict(zip(self.operands(layer.node), layer.sources, strict=True))

    def _constant(self, node: ir.Node, index: int) -> ConstantOperand:
        value = node.inputs[index]
        assert value is not None
        return read_constant(value)

    def _codes(self, node: ir.Node, index: int, target: QuantSpec) -> AnyArray:
        """uint8, of a constant on the grid of the result."""
        constant = self._constant(node, index)
        rounded = Exact(constant.integers, constant.grid.exponent).rounded(target)
        return (rounded + target.zero_point).astype(np.uint8)


def _condition(node: ir.Node) -> Condition:
    condition = condition_of(node.inputs[0])
    assert condition is not None
    return condition


def _is_same(grid: QuantSpec, target: QuantSpec) -> bool:
    """Whether codes stay as they are, but for the range."""
    return (grid.exponent, grid.zero_point, grid.is_wide) == (target.exponent, target.zero_point, target.is_wide)
