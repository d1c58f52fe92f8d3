"""Quotients of two tensors of integers, rounded half to even once.

    q = round(2**shift a / b)        |q| is cut where a code is, and b counts as one step where it is 0

The quotient of two reals on power-of-two grids is `a / b` times a power of two, and float32 rounds it to the same code.
In steps of the result it is `n / d` of integers below 2**26; it lies beside a middle between two codes by at least
`1 / 2d`, or on it. Up to 255 steps this is 2**-17 of itself or more, and float32 errs by 2**-24.
"""

from __future__ import annotations

from typing import Final

from qpipe.arith.namespace import I, integers
from qpipe.arith.quantize import divide_half_even

MOST_SHIFT: Final = 16
"""Beyond it each quotient of codes of 8 bits is 0 steps, or more than there are."""


def quotient_steps(a: I, b: I, shift: int, *, signed: bool) -> I:
    """`2**shift a / b` of integers of at most 8 bits and their signs, of int32 or wider: the nearest integers.

    signed: whether b has negative ones.
    """
    shift = min(max(shift, -MOST_SHIFT), MOST_SHIFT)
    if signed:
        sign = _sign(b)
        a, b = a * sign, b * sign
    sign = _sign(a)
    above, below = 2 ** max(shift, 0), 2 ** max(-shift, 0)
    found: I = divide_half_even(a * sign * above, integers(b).maximum(b, 1) * below) * sign
    return found


def _sign(x: I) -> I:
    """-1 of negative numbers, else 1."""
    found: I = integers(x).clip(x, -1, 0) * 2 + 1
    return found
