"""How a positive number becomes the power of two of a scale."""

from __future__ import annotations

from typing import Literal

from qpipe.arith.namespace import A, namespace

Rounding = Literal["ceil", "nearest"]
"""Of log2: up, as in the paper, or to the power of two nearest to the number (in ratio: below sqrt(2) it is the lower).
"""

SQRT_HALF = 0.5**0.5


def rounded_log2(x: A, rounding: Rounding) -> A:
    """The integer `ceil(log2(x))` or `round(log2(x))` of positive numbers, exact for powers of two; 0 has 0 or -1."""
    xp = namespace(x)
    mantissa, exponent = xp.frexp(x)  # x = mantissa * 2**exponent, 0.5 <= mantissa < 1
    goes_down = mantissa == 0.5 if rounding == "ceil" else mantissa < SQRT_HALF
    return xp.where(goes_down, exponent - 1, exponent)
