"""The factor by which each output channel's weights best fill their grid, given that batch normalization undoes it.

`k conv(w)` and `(k / r) conv(r w)` are the same function for any r > 0. So r is free to choose, per channel, such that

- the clip of the weights is the largest code, instead of anywhere in the upper half of a power-of-two grid (or, where
  exponents are those of the nearest power, anywhere from 0.7 to 1.4 of it; weights may then grow by 45 percent before
  their channel's exponent changes, and shrink by 27);
- no pair of neighbours exceeds what a saturating int16 holds, at the least loss of resolution;
- `k / r` is an integer of at most 8 bits times a power of two, with a shift within its bound: nothing is rounded later.
- A channel that only passes another one on, by one weight that with k is a power of two, has a code that is one too: it
  passes codes on unrounded, and fills of its grid what a power of two can.

In other words, the integer multiplier of the channel becomes part of the scale of its weights.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qpipe.arith.multiplier import MULTIPLIER_BITS, shift_bound
from qpipe.arith.namespace import Float64Array, FloatArray, IntArray
from qpipe.arith.power_of_two import SQRT_HALF, Rounding
from qpipe.arith.spec import QuantSpec
from qpipe.arith.weights import pair_sums

HEADROOM = 0.97  # of the range, so that a weight which grows a little in training does not cost its channel an exponent

FLOAT32_NOISE = 1e-6  # what storing weights and statistics as float32 leaves of a ratio of 1: a few times 2**-24


def channel_ratio(
    rows: FloatArray,
    k: Float64Array,
    exponent: IntArray,
    *,
    clip: Float64Array,
    qmax: int,
    pair_limit: int | None,
    rounding: Rounding,
    input_exponent: int,
    output: QuantSpec,
) -> Float64Array:
    """r, `[C]`, for weights `[C, K]` on exponents `[C]`; 1 where k or all weights are zero.

    clip: the largest weight of each channel that is represented, `[C]`; qmax: its code. pair_limit: None where pairs
    are waived. rounding: of log2 of the weights' step. The multiplier is the smallest `m * 2**e >= k / r_max` that 8
    bits and the shift bound allow; `r = k / (m * 2**e)`.
    """
    # Weight units per code, at least.
    least = clip / (HEADROOM * (qmax + 0.5))
    if pair_limit is not None:
        # Each of the two may be rounded up by a half.
        pairs = pair_sums(np.clip(rows, -clip[:, None], clip[:, None])).max(axis=1, initial=0.0)
        least = np.maximum(least, pairs / (HEADROOM * (pair_limit - 1)))
    if rounding == "nearest":
        # A step under sqrt(1/2) codes would get the next lower exponent and twice the codes: rather trim some pairs.
        least = np.minimum(least, clip * HEADROOM / (SQRT_HALF * (qmax + 0.5)))
    fits = (least > 0) & (k != 0)
    smallest = np.where(fits, np.abs(k) * least, 1.0)
    least_exponent = output.exponent - input_exponent - shift_bound(output)
    e = np.maximum(np.frexp(smallest)[1] - MULTIPLIER_BITS, least_exponent)
    per_code = np.ldexp(np.ceil(np.ldexp(smallest, -e)), e)
    ratio = np.where(fits, np.abs(k) / per_code * np.exp2(exponent.astype(np.float64)), 1.0)
    code = np.ldexp(np.abs(rows).max(axis=1, initial=0.0).astype(np.float64) * ratio, -exponent.astype(np.int32))
    # At least one: a code of 0 passes nothing on.
    whole = np.exp2(np.maximum(np.floor(np.log2(np.where(code > 0, code, 1.0))), 0))
    ratio = np.where(single_powers(rows, k) & fits, ratio * whole / np.where(code > 0, code, 1.0), ratio)
    return np.where(np.abs(ratio - 1) < FLOAT32_NOISE, 1.0, ratio)


def single_powers(rows: FloatArray | Float64Array, k: Float64Array) -> npt.NDArray[np.bool_]:
    """Of which channels, `[C]`, `k w` is a power of two for one weight, as float32 holds it, and all others are 0."""
    gain = np.abs(k * rows.sum(axis=1, dtype=np.float64))
    mantissa = np.frexp(gain)[0]
    is_power = np.minimum(np.abs(mantissa - 0.5), np.abs(1 - mantissa)) < FLOAT32_NOISE
    found: npt.NDArray[np.bool_] = (np.count_nonzero(rows, axis=1) == 1) & is_power
    return found
