"""Gelu, and the error function that it is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from qpipe.arith.namespace import A, error_function, namespace
from qpipe.nodes import string_attribute
from qpipe.ops.curve import LateCurve
from qpipe.ops.work import FUNCTION, NodeWork, Work

_NAMES = ("none", "tanh")


class Gelu(LateCurve):
    """`x` times the normal distribution function at x, or its approximation by tanh; it ends at -0.17."""

    op_types = ("Gelu",)
    cost = NodeWork(FUNCTION + Work(multiply=3, add=1), backward=Work(multiply=4, add=2))
    defaults = (("tanh", 0.0),)

    def numbers(self, node: ir.Node) -> tuple[tuple[str, float], ...]:
        """tanh: whether it is the approximation."""
        return (("tanh", float(string_attribute(node, "approximate", _NAMES[0]) == _NAMES[1])),)

    def node(self, model: ir.Model, source: ir.Value, op_type: str, numbers: Mapping[str, float]) -> ir.Node:
        """With ONNX's attribute."""
        return ir.node(op_type, [source], {"approximate": _NAMES[bool(numbers["tanh"])]})

    def formula(self, x: A, tanh: float = 0.0) -> A:
        """`x (1 + erf(x / sqrt(2))) / 2`, or `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))) / 2`."""
        if tanh:
            return 0.5 * x * (1.0 + namespace(x).tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
        return 0.5 * x * (1.0 + error_function(x / math.sqrt(2)))


class Erf(LateCurve):
    """From -1 to 1."""

    op_types = ("Erf",)
    cost = NodeWork(FUNCTION, backward=FUNCTION + Work(multiply=2))

    def formula(self, x: A) -> A:
        """The error function."""
        return error_function(x)
