"""What the activations have in common that are no clip: Sigmoid, LeakyRelu, SiLU and their kind."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, NoReturn

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import A, IntArray
from qpipe.arith.spec import QuantSpec
from qpipe.errors import LoweringError
from qpipe.nodes import constant_array, constant_input, describe, float_attribute, initializer
from qpipe.ops.base import Carrier, Refusal
from qpipe.ops.factors import Factors
from qpipe.ops.function import Curve, set_units, units_of
from qpipe.ops.work import NodeWork

if TYPE_CHECKING:
    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class CurveOp(Carrier):
    """A function of one number. Calibration puts a table in its place, so that no lowering ever meets its node.

    Behind a layer it belongs to it; alone it is a table behind its input's grid, and keeps the width of that.
    """

    defaults: ClassVar[tuple[tuple[str, float], ...]] = ()
    """Its attributes, with ONNX's own values."""
    arguments: ClassVar[tuple[str, ...]] = ()
    """What its inputs behind the first are called: constants of one number; those that are left out have no value."""
    cost: ClassVar[NodeWork]
    """Of the formula, and of its derivative where the result is at hand."""

    @abstractmethod
    def formula(self, x: A) -> A:
        """The function; its attributes come by name."""

    def takes(self, node: ir.Node) -> bool:
        """Whether its arguments are constants of one number."""
        arrays = [constant_array(value) for value in node.inputs[1:] if value is not None]
        return all(array is not None and array.size == 1 for array in arrays)

    def numbers(self, node: ir.Node) -> tuple[tuple[str, float], ...]:
        """What the node's attributes and arguments say, by their names."""
        attributes = [(name, float_attribute(node, name, value)) for name, value in self.defaults]
        given = [(name, constant_input(node, index)) for index, name in enumerate(self.arguments, 1)]
        arguments = [(name, float(array.reshape(-1)[0])) for name, array in given if array is not None and array.size]
        return (*attributes, *arguments)

    def node(self, model: ir.Model, source: ir.Value, op_type: str, numbers: Mapping[str, float]) -> ir.Node:
        """A node of these that reads `source`."""
        self.define(model)
        inputs: list[ir.Value | None] = [source]
        for name in self.arguments:
            number = numbers.get(name)
            inputs.append(
                None if number is None else initializer(model.graph, f"{source.name}_{name}", np.float32(number))
            )
        attributes = {name: numbers[name] for name, _ in self.defaults}
        return ir.node(op_type, inputs, attributes, domain=min(self.domains))

    def curve(self, op_type: str, domain: str, numbers: Mapping[str, float]) -> Curve | None:
        """The function of a node of these; None where they are not the op's."""
        required = [name for name, _ in self.defaults]
        known = [*required, *self.arguments]
        if not set(required) <= numbers.keys() <= set(known) or domain not in self.domains:
            return None
        return Curve(op_type, domain, tuple((name, numbers[name]) for name in known if name in numbers), self)

    def flat_beyond(self, numbers: Mapping[str, float]) -> float:
        """A magnitude beyond which it is constant on either side, so that no code is needed there; inf: none."""
        return math.inf

    def is_of_lines(self, numbers: Mapping[str, float]) -> bool:
        """Whether it is lines that meet at 0, so that any positive factor passes it."""
        return self.homogeneous

    def is_homogeneous(self, node: ir.Node) -> bool:
        """As its attributes and arguments say."""
        return self.is_of_lines(dict(self.numbers(node)))

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """Those of its operand, where they pass it."""
        return operands[0] if self.is_homogeneous(node) else self.without_factors(node, operands, book)

    def is_steep(self, numbers: Mapping[str, float]) -> bool:
        """Whether its largest result, at the end of a grid, says little of the usual: its own range is observed then.

        Such a function is no part of the layer before it, and its table gives codes of the grid for that range.
        """
        return False

    def activation(self, node: ir.Node) -> Curve:
        """The function that the node's attributes and arguments say, in its units."""
        return Curve(node.op_type, node.domain, self.numbers(node), self, units_of(node))

    def scale_operand(self, node: ir.Node, factor: float) -> None:
        """By its units, which its table takes up."""
        units = units_of(node)
        set_units(node, replace(units, inner=units.inner / factor))

    def scale_result(self, node: ir.Node, factor: float) -> None:
        """Let the node give `factor` times what it gave, by its units."""
        units = units_of(node)
        set_units(node, replace(units, outer=units.outer / factor))

    def refusal(self, node: ir.Node) -> Refusal | None:
        """None: any attributes will do."""
        return None

    def work(self, node: ir.Node) -> NodeWork:
        """`cost`."""
        return self.cost

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x -> f(x)`."""
        return self.activation(node).real

    def carried(self, node: ir.Node, sources: Sequence[QuantSpec]) -> QuantSpec:
        """What its table gives."""
        return self.activation(node).table(sources[0], sources[0].bits).grid

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> NoReturn:
        """LoweringError: such a node computes floats."""
        raise _no_table(layer)

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> NoReturn:
        """LoweringError: such a node computes floats."""
        raise _no_table(layer)

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> NoReturn:
        """LoweringError: such a node computes floats."""
        raise _no_table(layer)


class LateCurve(CurveOp):
    """One that stays float where it leads to no weights, or through floats alone, unless a layer before has it."""

    def ends_float(self, node: ir.Node) -> bool:
        """It does."""
        return True


def _no_table(layer: RequantizedLayer) -> LoweringError:
    return LoweringError(f"{describe(layer.node)}: computes floats between quantizers, expected the table of it")
