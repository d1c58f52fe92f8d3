"""Pow by a constant: the square and what `square-product` makes one of, roots, and Sqrt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import onnx_ir as ir

from qpipe.arith.namespace import A, namespace
from qpipe.ops.base import Refusal
from qpipe.ops.curve import LateCurve
from qpipe.ops.exponential import positive
from qpipe.ops.refused import OR_LEAVE
from qpipe.ops.work import FUNCTION, NodeWork, Work

LARGEST: Final = 4
"""In magnitude. Beyond, most of 256 evenly spaced numbers have one and the same power."""


class Power(LateCurve):
    """`x**exponent`; of an exponent that is no whole number only positive x have one, and all others 0."""

    op_types = ("Pow",)
    cost = NodeWork(Work(multiply=2), backward=Work(multiply=2))
    arguments = ("exponent",)

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Another exponent."""
        exponent = dict(self.numbers(node)).get("exponent", 0.0)
        if 0 < abs(exponent) <= LARGEST:
            return None
        return Refusal(f"its exponent is {exponent:g}, expected up to {LARGEST} and not 0: replace it, {OR_LEAVE}")

    def is_steep(self, numbers: Mapping[str, float]) -> bool:
        """A quotient."""
        return numbers.get("exponent", 1.0) < 0

    def formula(self, x: A, exponent: float = 1.0) -> A:
        """Products, where the exponent is a whole number above 0."""
        if exponent != round(exponent) or exponent < 0:
            y: A = positive(x) ** exponent
            return y
        y = x
        for _ in range(round(exponent) - 1):
            y = y * x
        return y

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """Only the data tell: an even power has none."""
        return None if any(inputs) else super().sign(inputs)


class Sqrt(LateCurve):
    """`sqrt(x)`, of what is positive; of all else 0."""

    op_types = ("Sqrt",)
    cost = NodeWork(FUNCTION, backward=Work(multiply=2))

    def formula(self, x: A) -> A:
        """The library's own."""
        return namespace(x).sqrt(positive(x))

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """It is not negative."""
        return False
