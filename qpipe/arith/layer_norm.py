"""Layer normalization of integers: a mean, a root and a quotient, all in int32.

    v[i] = 2**f q[i] - round(2**f mean(q))        r = floor(sqrt(sum v**2 + E))        t[i] = floor(2**16 v[i] / r)
    y[i] = clip(round_half_even((t[i] + bias[i]) m[i] 2**-n[i]))

q are the codes of a row of K numbers on a grid of steps `2**l`; a zero point cancels. `v / sqrt(sum v**2)` is at most
1, and is the normalized number divided by `sqrt(K)`, whatever the grid; so `gamma sqrt(K)` is what the multiplier m and
the shift n are fitted to (see `qpipe.arith.multiplier`), and beta becomes a bias. E is `K 4**f eps / 4**l`, the eps of
the variance in the units of the sum. f is the largest number of fraction bits, up to 6, at which the sum is at most
`2**29`; where E would be beyond that, the sum and E are both divided by `4**h` under the root.

RMS normalization is the same without the mean; there q is without zero point.

Sources: Ba et al. 2016, *Layer Normalization*; Zhang and Sennrich 2019, *Root Mean Square Layer Normalization*; Kim et
al. 2021, *I-BERT*, section 3.6, which finds the root by Newton's iteration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from qpipe.arith.multiplier import IntegerAffine, fit
from qpipe.arith.namespace import A, namespace
from qpipe.arith.quantize import MAX_SHIFT
from qpipe.arith.rows import ROOT_BITS, R, integer_root, row_sum
from qpipe.arith.spec import STORAGE_MAX, QuantSpec

QUOTIENT_BITS: Final = 16
MOST_FRACTION_BITS: Final = 6  # 2 * 255 * 2**6 * 2**16 is below 2**31
LONGEST_ROW: Final = 2**13  # squares of 8-bit codes, 2**16 each, sum up to half of what a root is taken of
_HALF: Final = 2 ** (ROOT_BITS - 1)


@dataclass(frozen=True)
class RowScale:
    """What the quotients need besides the codes; integers, or those of a graph.

    fraction: `2**f`. count: K. epsilon: E, divided already. reduction: `4**h`.
    """

    fraction: Any
    count: Any
    epsilon: Any
    reduction: Any


def row_scale(source: QuantSpec, count: int, epsilon: float, *, centred: bool) -> RowScale:
    """Of rows of so many codes of this grid."""
    fraction = MOST_FRACTION_BITS
    while fraction and _largest_sum(source, count, 2**fraction, centred=centred) > _HALF:
        fraction -= 1
    added = count * epsilon * 4.0 ** (fraction - source.exponent)
    reduction = max(0, math.ceil((math.log2(max(added, 1.0)) - ROOT_BITS + 1) / 2))
    # Of a row of zeros the root would be 0.
    return RowScale(2**fraction, count, max(round(added / 4.0**reduction), 1), 4**reduction)


def scale_problem(source: QuantSpec, count: int, scale: RowScale, *, centred: bool) -> str | None:
    """Why int32 does not hold what `quotients` computes of rows of so many codes; None where it does."""
    fraction, own, epsilon, reduction = (int(n) for n in (scale.fraction, scale.count, scale.epsilon, scale.reduction))
    if own != count:
        return f"it counts {own} numbers in a row, expected {count}"
    if not (1 <= fraction <= 2**MOST_FRACTION_BITS and epsilon >= 1 and reduction >= 1 and count <= LONGEST_ROW):
        return f"a fraction of {fraction}, an epsilon of {epsilon} or a reduction of {reduction} is out of range"
    largest = _largest_sum(source, count, fraction, centred=centred) // reduction + epsilon
    return f"its sum of squares, up to {largest}, is over 2**{ROOT_BITS}" if largest > 2**ROOT_BITS else None


def quotients(codes: R, scale: RowScale, *, centred: bool) -> R:
    """t, `[..., K]`, of codes `[..., K]`: within `largest_quotient`.

    centred: whether the mean is taken off; then the codes are as they are stored, never negative.
    """
    values: R = codes * scale.fraction
    if centred:
        # Rounded half up: of what is not negative.
        doubled = row_sum(codes) * (scale.fraction * 2) + scale.count
        values = values - doubled // (scale.count * 2)
    root = integer_root(row_sum(values * values) // scale.reduction + scale.epsilon)
    # Quotients of what is not negative, so that all runtimes round them to the same side.
    above = scale.fraction * STORAGE_MAX
    found: R = ((values + above) * 2**QUOTIENT_BITS) // root - (above * 2**QUOTIENT_BITS) // root
    return found


def largest_quotient(scale: RowScale) -> int:
    """The largest magnitude of t.

    v is at most the root of the sum of squares. Where that is divided by `4**h`, E is so large that the root is more
    than half of the largest v.
    """
    return (2**QUOTIENT_BITS << (int(scale.reduction) > 1)) + 1


def fit_rows(gamma: A, beta: A, scale: RowScale, output: QuantSpec) -> tuple[IntegerAffine[A], int]:
    """Sign, multiplier, shift and bias of `gamma y + beta`, float64 `[K]`; and the exponent of t's unit.

    t is `2**(16 + h) / sqrt(K)` times the normalized number.
    """
    xp = namespace(gamma)
    unit = -QUOTIENT_BITS - (int(scale.reduction).bit_length() - 1) // 2
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


def _largest_sum(source: QuantSpec, count: int, fraction: int, *, centred: bool) -> int:
    """Of squares of values in a row."""
    # Centred codes are farthest from their mean where half of them lie at either end.
    largest = (source.qmax - source.qmin + 1) // 2 if centred else source.largest
    total: int = count * (largest * fraction + 1) ** 2
    return total
