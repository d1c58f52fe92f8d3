"""Units that end below 0 by an exponential: Elu, Selu, Celu, and the smooth ones, Softplus, Mish, Softsign."""

from __future__ import annotations

from collections.abc import Sequence

from qpipe.arith.namespace import A, namespace
from qpipe.ops.curve import LateCurve
from qpipe.ops.work import FUNCTION, NodeWork, Work

_COST = NodeWork(FUNCTION + Work(multiply=1, add=1, compare=1), backward=Work(multiply=2, compare=1))


def _below(x: A, alpha: float, scale: float = 1.0) -> A:
    """`alpha (exp(x / scale) - 1)` where x is negative, else x."""
    xp = namespace(x)
    return xp.where(x < 0, alpha * xp.expm1(xp.minimum(x, xp.zeros_like(x)) / scale), x)


def _softplus(x: A) -> A:
    """`log(1 + exp(x))`, which overflows nowhere."""
    xp = namespace(x)
    return xp.clip(x, 0.0, None) + xp.log1p(xp.exp(-abs(x)))


class Elu(LateCurve):
    """`alpha (exp(x) - 1)` below 0."""

    op_types = ("Elu",)
    cost = _COST
    defaults = (("alpha", 1.0),)

    def formula(self, x: A, alpha: float = 1.0) -> A:
        """It ends at -alpha."""
        return _below(x, alpha)


class Selu(LateCurve):
    """An Elu times gamma, of constants that keep variances."""

    op_types = ("Selu",)
    cost = _COST
    defaults = (("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875))

    def formula(self, x: A, alpha: float = 0.0, gamma: float = 0.0) -> A:
        """It ends at `-alpha gamma`."""
        return gamma * _below(x, alpha)


class Celu(LateCurve):
    """`alpha (exp(x / alpha) - 1)` below 0, whose slope is 1 there."""

    op_types = ("Celu",)
    cost = _COST
    defaults = (("alpha", 1.0),)

    def formula(self, x: A, alpha: float = 1.0) -> A:
        """It ends at -alpha."""
        return _below(x, alpha, alpha)


class Softplus(LateCurve):
    """`log(1 + exp(x))`."""

    op_types = ("Softplus",)
    cost = NodeWork(FUNCTION + FUNCTION, backward=Work(multiply=2, add=1))

    def formula(self, x: A) -> A:
        """It is positive."""
        return _softplus(x)

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """It is positive."""
        return False


class Mish(LateCurve):
    """`x tanh(softplus(x))`."""

    op_types = ("Mish",)
    cost = NodeWork(FUNCTION + FUNCTION + FUNCTION + Work(multiply=1), backward=Work(multiply=4, add=2))

    def formula(self, x: A) -> A:
        """It ends at -0.31."""
        return x * namespace(x).tanh(_softplus(x))


class Softsign(LateCurve):
    """`x / (1 + |x|)`, from -1 to 1."""

    op_types = ("Softsign",)
    cost = NodeWork(FUNCTION + Work(add=1, compare=1), backward=Work(multiply=3))

    def formula(self, x: A) -> A:
        """Of the sign of its input."""
        y: A = x / (1.0 + abs(x))
        return y
