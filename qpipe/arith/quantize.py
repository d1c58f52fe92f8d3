"""Quantize, dequantize, requantize, divide: each defined once.

`xp` is the array namespace that interprets the definition: numpy (the oracle), torch (the simulation), or, for the
integer functions, `qpipe.arith.symbolic`, whose values emit ONNX nodes for Python's operators. One rounding
everywhere: half to even, with ONNX's order of rounding and clipping: `clip(round(x / scale))`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qpipe.arith.spec import QuantSpec

IntArray = npt.NDArray[np.int64]

MAX_SHIFT = 22  # the largest shift whose products, zero point included, stay inside int32
_INT32_HALF = 2**30


def quantize(x: Any, spec: QuantSpec, xp: Any = np) -> Any:
    """The integers (without zero point, in x's own float type) of real numbers x."""
    return xp.clip(xp.round(x / spec.scale), spec.qmin, spec.qmax)


def dequantize(q: Any, spec: QuantSpec) -> Any:
    """The real numbers of integers q (without zero point)."""
    return q * spec.scale


@dataclass(frozen=True)
class Requantization:
    """Constants of `clip(round_half_even((acc + bias) * multiplier * 2**-shift)) + zero_point`, per channel.

    `low` and `high` clip the accumulator to where the result does not saturate. Rounding is monotone, so clipping
    first and clipping last give the same integer, and all that follows the clip fits int32. `bias` is None where it
    could be moved behind the clip, into `low`, `high` and `addend`.
    """

    bias: IntArray | None
    low: IntArray
    high: IntArray
    multiplier: IntArray
    addend: IntArray
    shift: IntArray
    spec: QuantSpec
    overshoots: bool
    """Whether steps are so coarse that a clipped accumulator can still land outside of the range."""


def requantization(
    multiplier: npt.ArrayLike, shift: npt.ArrayLike, spec: QuantSpec, bias: npt.ArrayLike = 0
) -> Requantization:
    """The constants for an accumulator whose unit is `multiplier * 2**-shift` steps of the output.

    multiplier: positive, shift: at most `MAX_SHIFT` and of any sign, bias: in accumulator units; each `[C]` or scalar.
    A shift below 1 becomes a shift of 1 with a larger multiplier, so that one formula serves all channels.
    """
    shift_ = np.asarray(shift, np.int64)
    if np.any(shift_ > MAX_SHIFT):
        raise ValueError(f"shift {int(shift_.max())} is over {MAX_SHIFT}")
    lift = np.maximum(1 - shift_, 0)
    m, n = np.asarray(multiplier, np.int64) << lift, shift_ + lift
    half = np.int64(1) << (n - 1)
    offset = np.int64(spec.zero_point) << n  # even zero point: ties keep their parity
    coarse = m > 2 * half
    # The last accumulators that round into the range: strictly inside of qmin - 1/2 and qmax + 1/2 (a tie at an end
    # rounds outward, both ends being odd, or is harmless). Coarse steps may skip the end: go one further, clip last.
    low = -((-(2 * spec.qmin - 1) * half - 1) // m) - coarse
    high = ((2 * spec.qmax + 1) * half - 1) // m + coarse
    bias_ = np.asarray(bias, np.int64)
    reach = np.maximum(np.abs(low - bias_), np.abs(high - bias_)) * m
    foldable = bool(np.all(reach < _INT32_HALF))
    behind = bias_ if foldable else np.int64(0)
    return Requantization(
        bias=None if foldable else bias_,
        low=low - behind,
        high=high - behind,
        multiplier=m,
        addend=behind * m + offset + half - 1,
        shift=n,
        spec=spec,
        overshoots=bool(np.any(coarse)),
    )


def requantize(acc: Any, constants: Requantization, xp: Any = np) -> Any:
    """Stored codes (zero point included) of int32 accumulators `[..., C]`.

    `addend` holds just under a half; what is missing to round half to even is the result's own parity, and it can be
    read off the sum, because the two differ in it only where it does not matter.
    """
    c = constants
    if c.bias is not None:
        acc = acc + c.bias
    p = xp.minimum(xp.maximum(acc, c.low), c.high) * c.multiplier + c.addend
    codes = (p + xp.minimum(p & (np.int64(1) << c.shift), np.int64(1))) >> c.shift
    if c.overshoots:
        codes = xp.minimum(xp.maximum(codes, np.int64(c.spec.stored_min)), np.int64(c.spec.stored_max))
    return codes


def divide_half_even(numerator: Any, denominator: Any) -> Any:
    """`numerator / denominator` for integers >= 0 and > 0, rounded half to even."""
    quotient = numerator // denominator
    # Up where the remainder is over a half, or is the half and the quotient is odd.
    twice = (numerator - quotient * denominator) * np.int64(2) + (quotient & np.int64(1))
    return quotient + twice // (denominator + np.int64(1))
