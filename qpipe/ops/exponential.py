"""Exp, Log and Reciprocal: functions whose largest number says little of what they usually give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from qpipe.arith.namespace import A, namespace
from qpipe.ops.curve import LateCurve
from qpipe.ops.work import FUNCTION, NodeWork, Work

SMALLEST: Final = 2.0**-60
"""What a number nearer to 0 is taken for, by itself: its reciprocal, and the derivative of that, are in float32."""
_LARGEST_EXPONENT: Final = 80.0
"""Its exponential is in float32."""


def positive(x: A) -> A:
    """x, or the smallest number where x is below it: there is no other table of a Log or a root, and no gradient."""
    return namespace(x).where(x > SMALLEST, x, SMALLEST)


class SteepCurve(LateCurve):
    """One whose result's range only the data tell."""

    def is_steep(self, numbers: Mapping[str, float]) -> bool:
        """It is."""
        return True


class Exp(SteepCurve):
    """`exp(x)`."""

    op_types = ("Exp",)
    cost = NodeWork(FUNCTION, backward=Work(multiply=1))

    def formula(self, x: A) -> A:
        """It overflows nowhere."""
        return namespace(x).exp(namespace(x).where(x < _LARGEST_EXPONENT, x, _LARGEST_EXPONENT))

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """It is positive."""
        return False


class Log(SteepCurve):
    """`log(x)`, of what is positive."""

    op_types = ("Log",)
    cost = NodeWork(FUNCTION, backward=FUNCTION)

    def formula(self, x: A) -> A:
        """Of all others what the smallest number has."""
        return namespace(x).log(positive(x))

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """Either."""
        return True


class Reciprocal(SteepCurve):
    """`1 / x`."""

    op_types = ("Reciprocal",)
    cost = NodeWork(FUNCTION, backward=Work(multiply=2))

    def formula(self, x: A) -> A:
        """Of 0 a large number, which is beyond any grid."""
        y: A = 1.0 / namespace(x).where(abs(x) > SMALLEST, x, SMALLEST)
        return y
