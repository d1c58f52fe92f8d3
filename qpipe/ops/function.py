"""Activations: real functions on a grid. A clip of the integers is one, a table of 256 entries another."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import A, namespace
from qpipe.arith.spec import QuantSpec
from qpipe.arith.table import CodeTable, function_table
from qpipe.nodes import initializer

if TYPE_CHECKING:
    from qpipe.ops.curve import CurveOp


class ActivationFunction(ABC):
    """What an activation computes, behind the layer that it belongs to or alone."""

    @property
    @abstractmethod
    def is_homogeneous(self) -> bool:
        """Whether `f(x / r) = f(x) / r` for any r > 0: lines that meet at 0."""

    @abstractmethod
    def real(self, x: A) -> A:
        """The function itself."""

    @abstractmethod
    def node(self, model: ir.Model, source: ir.Value) -> ir.Node:
        """A float node that computes it, to be put behind `source`; what it needs besides is in the model."""


@dataclass(frozen=True)
class Rectifier(ActivationFunction):
    """`min(max(x, 0), bound)`: the end of a grid's range. A Relu's bound is infinite."""

    bound: float

    @property
    def is_homogeneous(self) -> bool:
        """Without an upper bound."""
        return math.isinf(self.bound)

    def real(self, x: A) -> A:
        """The clip."""
        return namespace(x).clip(x, 0.0, None if math.isinf(self.bound) else self.bound)

    def node(self, model: ir.Model, source: ir.Value) -> ir.Node:
        """A Relu, or a Clip to [0, bound]."""
        limits = [] if math.isinf(self.bound) else [("low", 0.0), ("high", self.bound)]
        inputs = [initializer(model.graph, f"{source.name}_{name}", np.float32(limit)) for name, limit in limits]
        return ir.node("Clip" if limits else "Relu", [source, *inputs])


@dataclass(frozen=True)
class Units:
    """What a function reads and gives is counted in: it is `f(inner x) / outer`. Both are over 0."""

    inner: float = 1.0
    outer: float = 1.0

    @property
    def are_one(self) -> bool:
        """Whether it is the function itself."""
        return self.inner == self.outer == 1


ONE: Final = Units()


@dataclass(frozen=True)
class Curve(ActivationFunction):
    """Any other function: what its quantizer rounds to is 8-bit, and passes a table of what the function gives.

    op_type, domain, parameters: of the node that computes it. units: of what it reads and gives, which the entries of
    its table take up.
    """

    op_type: str
    domain: str
    parameters: tuple[tuple[str, float], ...]
    op: CurveOp = field(compare=False, repr=False)
    units: Units = ONE

    @property
    def is_homogeneous(self) -> bool:
        """As its op says of these parameters."""
        return self.op.is_of_lines(dict(self.parameters))

    def real(self, x: A) -> A:
        """The formula of its op, in its units."""
        if self.units.are_one:
            return self.op.formula(x, **dict(self.parameters))
        return self.op.formula(x * self.units.inner, **dict(self.parameters)) / self.units.outer

    def node(self, model: ir.Model, source: ir.Value) -> ir.Node:
        """The node that it was read from; its units are a note on it."""
        node = self.op.node(model, source, self.op_type, dict(self.parameters))
        set_units(node, self.units)
        return node

    @property
    def flat_beyond(self) -> float:
        """A magnitude beyond which it is constant on either side; inf: none."""
        return self.op.flat_beyond(dict(self.parameters)) / self.units.inner

    @property
    def is_steep(self) -> bool:
        """Whether what it gives is observed, and has a grid for that."""
        return self.op.is_steep(dict(self.parameters))

    def table(
        self, before: QuantSpec, bits: int, largest: float = math.inf, *, after: QuantSpec | None = None
    ) -> CodeTable:
        """The table behind a grid, which gives `bits` wide codes; largest: of |x|, as far as x commonly goes.

        after: the grid that it gives codes of, where that is known.
        """
        return function_table(self.real, before, bits, largest, after=after)


UNITS_KEY: Final = "qpipe.units"
"""Of a float node that computes a curve, until its table takes them up."""


def units_of(node: ir.Node) -> Units:
    """What it says of itself; by default both are 1."""
    text = node.metadata_props.get(UNITS_KEY)
    return ONE if text is None else Units(**json.loads(text))


def set_units(node: ir.Node, units: Units) -> None:
    """Let it say them."""
    node.metadata_props.pop(UNITS_KEY, None)
    if not units.are_one:
        node.metadata_props[UNITS_KEY] = json.dumps(asdict(units))


def multiplication(x: ir.Value, factor: ir.Value, name: str) -> ir.Node:
    """A node that multiplies by a constant, as what a runtime sees of a unit."""
    return ir.node("Mul", [x, factor], name=name)
