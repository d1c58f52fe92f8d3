"""Layer normalization of integers: a mean, a root and a quotient, all in int32.

    v[i] = 2**f q[i] - round(2**f mean(q))          d = 2**j: the row's span in limits, rounded up
    r = floor(sqrt(sum round(v / d)**2 + E / d**2))             t[i] = floor(2**13 v[i] / (r d))
    y[i] = clip(round_half_even((t[i] + bias[i]) m[i] 2**-n[i]))

q are the codes of a row of K numbers, of 8 bits or of 16, on a grid of steps `2**l`; a zero point cancels. f fills 16
bits. `v / sqrt(sum v**2)` is at most 1, and is the normalized number divided by `sqrt(K)`, whatever the grid; so
`gamma sqrt(K)` is what the multiplier m and the shift n are fitted to (see `qpipe.arith.multiplier`), and beta becomes
a bias. d is each row's own, so that rows of small numbers beside others of large ones keep their digits: the sum of
squares is at most `2**29`. E is `K 4**f eps / 4**l`, the eps of the variance in the units of the sum. Where it is so
large that it would leave int32, there are fewer bits of fraction, and then both it and the sum are divided by `4**h`.

Sources: Ba et al. 2016, *Layer Normalization*; Kim et al. 2021, *I-BERT*, section 3.6, which finds the root by Newton's
iteration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from qpipe.arith.multiplier import IntegerAffine, fit
from qpipe.arith.namespace import A, namespace
from qpipe.arith.quantize import MAX_SHIFT
from qpipe.arith.rows import ROOT_BITS, R, count_reached, integer_root, look_up, row_max, row_min, row_sum
from qpipe.arith.spec import WIDE_BITS, QuantSpec

QUOTIENT_BITS: Final = 13  # 2 * 2**16 * 2**13 is below 2**31
LONGEST_ROW: Final = 2**13  # so many codes of 16 bits, doubled, sum to less than 2**31
_EPSILON_BITS: Final = ROOT_BITS - 2
_MOST_HALVINGS: Final = 8  # the span of 16 bits in limits of the longest row
_ABOVE: Final = 2**WIDE_BITS  # every v
_FAR_ABOVE: Final = 2**24  # a multiple of what any v is divided by under the root
_POWERS: Final = 2 ** np.arange(_MOST_HALVINGS + 1, dtype=np.int32)


@dataclass(frozen=True)
class RowScale:
    """What the quotients need besides the codes; integers, or those of a graph.

    fraction: `2**f`. count: K. epsilon: E, divided by `4**h` already. divisor: `2**h`, but at most `2**16`, which
    leaves nothing of v. limit: of a row's span. halvings: h, of those that were not read from a file.
    """

    fraction: Any
    count: Any
    epsilon: Any
    divisor: Any
    limit: Any
    halvings: int = 0


def row_scale(source: QuantSpec, count: int, epsilon: float) -> RowScale:
    """Of rows of so many codes of this grid."""
    fraction = _most_fraction(source)
    least = count * epsilon * 4.0**-source.exponent
    while fraction and least * 4.0**fraction > 2**_EPSILON_BITS:
        fraction -= 1
    added = least * 4.0**fraction
    halvings = max(0, math.ceil((math.log2(max(added, 1.0)) - _EPSILON_BITS) / 2))
    # Of a row of zeros the root would be 0.
    within = max(round(added / 4.0**halvings), 1)
    return RowScale(2**fraction, count, within, 2 ** min(halvings, WIDE_BITS), _limit(count), halvings)


def scale_problem(source: QuantSpec, count: int, scale: RowScale) -> str | None:
    """Why int32 does not hold what `quotients` computes of rows of so many codes; None where it does."""
    fraction, own, epsilon = (int(n) for n in (scale.fraction, scale.count, scale.epsilon))
    divisor, limit = int(scale.divisor), int(scale.limit)
    if own != count or count > LONGEST_ROW:
        return f"it counts {own} numbers in a row, expected {count}"
    if not 1 <= fraction <= 2 ** _most_fraction(source) or not 1 <= divisor <= 2**WIDE_BITS:
        return f"a fraction of {fraction} or a divisor of {divisor} is out of range"
    if not 1 <= epsilon <= 2**_EPSILON_BITS:
        return f"an epsilon of {epsilon} is out of range, expected 1 to 2**{_EPSILON_BITS}"
    return f"a row's limit is {limit}, expected {_limit(count)}" if limit != _limit(count) else None


def quotients(stored: R, scale: RowScale) -> R:
    """t, `[..., K]`, of codes `[..., K]` as they are stored, never negative: within `largest_quotient`."""
    # Rounded half up: of what is not negative.
    doubled = row_sum(stored) * (scale.fraction * 2) + scale.count
    # v is what is above the mean; each constant of a row goes with it, so that the tensor is passed fewer times.
    above, mean = stored * scale.fraction, doubled // (scale.count * 2)
    span = (row_max(stored) - row_min(stored)) * scale.fraction
    limits = (span + scale.limit - 1) // scale.limit
    divisor = look_up(_POWERS, count_reached(limits, [1 + 2**j for j in range(_MOST_HALVINGS)]))
    within = divisor * scale.divisor
    rounded: R = (above + (within // 2 - mean + _FAR_ABOVE)) // within - _FAR_ABOVE // within
    root = integer_root(row_sum(rounded * rounded) + scale.epsilon // (divisor * divisor)) * divisor
    # Quotients of what is not negative, so that all runtimes round them to the same side.
    beside = (mean * -1 + _ABOVE) * 2**QUOTIENT_BITS
    found: R = (above * 2**QUOTIENT_BITS + beside) // root - (_ABOVE * 2**QUOTIENT_BITS) // root
    return found


def largest_quotient(scale: RowScale) -> int:
    """The largest magnitude of t.

    v is at most the root of the sum of squares, which is rounded: where a row is divided, its largest is at least 126
    then. Where E is divided as well, it is over `2**26`, and v below `2**16`.
    """
    return 1 << (QUOTIENT_BITS + 4) if int(scale.divisor) > 1 else (1 << QUOTIENT_BITS) + (1 << (QUOTIENT_BITS - 7)) + 1


def fit_rows(gamma: A, beta: A, scale: RowScale, output: QuantSpec) -> tuple[IntegerAffine[A], int]:
    """Sign, multiplier, shift and bias of `gamma y + beta`, float64 `[K]`; and the exponent of t's unit.

    t is `2**(13 + h) / sqrt(K)` times the normalized number.
    """
    xp = namespace(gamma)
    unit = -QUOTIENT_BITS - scale.halvings
    found = fit(
        gamma * math.sqrt(int(scale.count)),
        beta,
        xp.zeros_like(gamma),
        weight_exponent=xp.zeros_like(gamma, dtype=xp.int32),
        input_exponent=unit,
        output=output,
        weight_sum=xp.ones_like(gamma) * largest_quotient(scale),
        bound=MAX_SHIFT,
    )
    return found, unit


def _most_fraction(source: QuantSpec) -> int:
    """Bits that fill 16."""
    bits: int = WIDE_BITS - source.storage_bits
    return bits


def _limit(count: int) -> int:
    """Of a row's span: the squares of K numbers that differ by no more sum to a half of what a root is taken of.

    Their sum is at most K times the square of half of the span, and of 1 more that rounding adds.
    """
    return 2 * (math.isqrt((1 << (ROOT_BITS - 1)) // count) - 1)
