"""Softmax of integers: a table of exponentials, an integer sum, and a division that rounds once.

    e[i] = table[max(q) - q[i]]        table[d] = round(2**F exp(-d 2**l))        p[i] = e[i] / s

q are the codes of a row on a grid of steps `2**l`; what is common to a row, a zero point, cancels. s is the sum of e,
or one more where that is even: a multiple of an odd number has no half, so that no quotient is a tie, and one division
rounds it as half to even does. The table has as many fraction bits F as int32 leaves: the sum of a row, and a numerator
in steps of the result, are at most `2**30`.

Sources: Kim et al. 2021, *I-BERT*, section 3.5, which has a polynomial in the table's place; Li and Gu 2023, *I-ViT*,
section 3.3, which has shifts. Of 8-bit codes there are 256 differences, and a table is exact to its last bit.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from qpipe.arith.namespace import AnyArray, IntArray
from qpipe.arith.quantize import divide_by_odd
from qpipe.arith.rows import R, look_up, row_max, row_sum
from qpipe.arith.spec import QuantSpec
from qpipe.arith.symbolic import Symbol
from qpipe.arith.table import SIZE

SUM_BITS: Final = 30
MOST_BITS: Final = 22
LONGEST_ROW: Final = 2**14  # of which a largest quotient, 2**-14 or more, leaves the table 8 bits at least


def exponentials(source: QuantSpec, output: QuantSpec, count: int) -> IntArray:
    """The table, int64 `[256]`: of rows of `count` codes of `source`, for a quotient that is rounded to `output`."""
    fraction = min(MOST_BITS, SUM_BITS - max(count - 1, 0).bit_length(), SUM_BITS + output.exponent)
    found: IntArray = np.round(np.exp(-np.arange(SIZE) * source.scale) * 2.0**fraction).astype(np.int64)
    return found


def softmax_parts(codes: R, table: AnyArray | Symbol) -> tuple[R, R]:
    """Numerators `[..., K]` and what they are divided by, `[..., 1]` and odd, of codes `[..., K]`."""
    numerators = look_up(table, row_max(codes) - codes)
    divisor: R = row_sum(numerators) // 2 * 2 + 1
    return numerators, divisor


def softmax_steps(codes: Symbol, table: AnyArray | Symbol, steps: Symbol | int) -> Symbol:
    """The quotients in so many steps of 1, rounded to the nearest, int32."""
    numerators, divisor = softmax_parts(codes, table)
    return divide_by_odd(numerators * steps, divisor)
