"""Activations: real functions on a grid. A clip of the integers is one, a table of 256 entries another."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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
class Curve(ActivationFunction):
    """Any other function: what its quantizer rounds to is 8-bit, and passes a table of what the function gives.

    op_type, domain, parameters: of the node that computes it.
    """

    op_type: str
    domain: str
    parameters: tuple[tuple[str, float], ...]
    op: CurveOp = field(compare=False, repr=False)

    @property
    def is_homogeneous(self) -> bool:
        """As its op says of these parameters."""
        return self.op.is_of_lines(dict(self.parameters))

    def real(self, x: A) -> A:
        """The formula of its op."""
        return self.op.formula(x, **dict(self.parameters))

    def node(self, model: ir.Model, source: ir.Value) -> ir.Node:
        """The node that it was read from."""
        return self.op.node(model, source, self.op_type, dict(self.parameters))

    @property
    def flat_beyond(self) -> float:
        """A magnitude beyond which it is constant on either side; inf: none."""
        return self.op.flat_beyond(dict(self.parameters))

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
