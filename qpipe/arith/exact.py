"""What a layer of integers gives before it is rounded, exactly: the specification that runtimes are compared with.

numpy alone computes it, in float64, which holds every integer below 2**53 and divides nearer than any tie is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qpipe.arith.multiplier import FLOAT32_EXACT
from qpipe.arith.namespace import AnyArray, Float64Array, IntArray
from qpipe.arith.quantize import quantize
from qpipe.arith.spec import QuantSpec

_EXACT = 2.0**53


@dataclass(frozen=True)
class Exact:
    """The numbers `values * 2**exponent / divisor`.

    values: integers below 2**53 in magnitude, or cut at a bound between two. exponent, divisor: integers that broadcast
    against values.
    """

    values: AnyArray
    exponent: IntArray | int
    divisor: IntArray | int = 1

    def __post_init__(self) -> None:
        if np.abs(self.values).max(initial=0) >= _EXACT:
            raise OverflowError("a sum of 2**53 and more")

    def real(self) -> Float64Array:
        """The numbers in float64: exact, but for a quotient, which is the nearest there is."""
        scaled: Float64Array = np.ldexp(self.values.astype(np.float64), self.exponent)
        return scaled if np.all(np.equal(self.divisor, 1)) else scaled / self.divisor

    def rounded(self, spec: QuantSpec) -> IntArray:
        """Integers of a grid, rounded half to even once.

        A quotient by d that is no tie lies 1 / 2d beside the next one, and float64 as far from it: it errs by 2**-45
        of a step within the range of 8 bits.
        """
        found: IntArray = quantize(self.real(), spec).astype(np.int64)
        return found


def product_type(rows: IntArray, largest: int) -> type[np.floating[Any]]:
    """The narrower float type in which sums of products are exact: of weights' rows `[..., K]` and numbers up to this.

    Partial sums are integers of at most `largest * sum |row|`, in whatever order they are added: float32 holds them up
    to 2**24, float64 up to 2**53.
    """
    bound = largest * int(np.abs(rows).sum(axis=-1).max(initial=0))
    if bound >= _EXACT:
        raise OverflowError(f"sums of up to {bound}")
    return np.float32 if bound <= FLOAT32_EXACT else np.float64
