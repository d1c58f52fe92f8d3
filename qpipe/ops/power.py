"""Pow by a small whole number: the square, and what `multiplied-by-itself` makes one of."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from qpipe.arith.namespace import A
from qpipe.ops.base import Refusal
from qpipe.ops.curve import LateCurve
from qpipe.ops.refused import OR_LEAVE
from qpipe.ops.work import NodeWork, Work

EXPONENTS = (1, 2, 3, 4)
"""Beyond them most of 256 evenly spaced numbers have one and the same power."""


class Power(LateCurve):
    """`x**exponent`. Roots and reciprocals have no table: what they need are many numbers near 0."""

    op_types = ("Pow",)
    cost = NodeWork(Work(multiply=2), backward=Work(multiply=2))
    arguments = ("exponent",)

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Another exponent."""
        exponent = dict(self.numbers(node)).get("exponent")
        if exponent in EXPONENTS:
            return None
        return Refusal(
            f"its exponent is {exponent:g}, expected {EXPONENTS[0]} to {EXPONENTS[-1]}: replace it, {OR_LEAVE}"
        )

    def formula(self, x: A, exponent: float = 1.0) -> A:
        """Products."""
        y = x
        for _ in range(round(exponent) - 1):
            y = y * x
        return y

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """Only the data tell: an even power has none."""
        return None if any(inputs) else super().sign(inputs)
