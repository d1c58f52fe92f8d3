"""Quantize, dequantize, requantize, divide: each defined once.

The arrays' own library interprets a definition (see `qpipe.arith.namespace`): numpy (the oracle), torch (the
simulation), or, for the integer functions, `qpipe.arith.symbolic`, whose values emit ONNX nodes. One rounding
everywhere: half to even, with ONNX's order of rounding and clipping: `clip(round(x / scale))`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qpipe.arith.namespace import A, AnyArray, I, IntArray, integers, namespace
from qpipe.arith.spec import QuantSpec

MAX_SHIFT = 22  # the largest shift whose products, zero point included, stay inside int32
MAX_WIDE_SHIFT = 14  # the same of codes of 16 bits
_INT32_MAX = 2**31 - 1
_WIDEST = 40  # shifting 8 bits by it stays inside int64, and is far beyond what saturates


def quantize(x: A, spec: QuantSpec) -> A:
    """The integers (without zero point, in x's own float type) of real numbers x."""
    xp = namespace(x)
    return xp.clip(xp.round(x / spec.scale), spec.qmin, spec.qmax)


def dequantize(q: A, spec: QuantSpec) -> A:
    """The real numbers of integers q (without zero point)."""
    return q * spec.scale


@dataclass(frozen=True)
class Requantization:
    """Constants of `clip(round_half_even((acc + bias) * multiplier * 2**-shift)) + zero_point`.

    All channels share one `shift`, so that what follows the multiplication is the same for all. `low` and `high` clip
    an accumulator to where the result does not saturate, where its product could leave int32; rounding is monotone, so
    it does not matter which clip comes first. `bias` is None where `addend` holds it. `limits` clip the sum; None where
    no sum lies outside. `is_wide`: to codes of 16 bits, which are divided as they are, without the half.
    """

    bias: AnyArray | None
    low: AnyArray | None
    high: AnyArray | None
    multiplier: AnyArray
    addend: AnyArray
    limits: tuple[int, int] | None
    shift: int
    is_wide: bool = False


def requantization(
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
    spec: QuantSpec,
    bias: npt.ArrayLike = 0,
    accumulators: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    common: int | None = None,
) -> Requantization:
    """The constants for an accumulator whose unit is `multiplier * 2**-shift` steps of the output.

    multiplier: positive, shift: at most `MAX_SHIFT` and of any sign, bias: in accumulator units; each `[C]` or scalar.
    accumulators: the smallest and the largest that can occur, before the bias; None: any int32. common: the shift that
    all have, by default the largest of theirs.
    """
    n, bias_ = np.asarray(shift, np.int64), np.asarray(bias, np.int64)
    most_shift = MAX_WIDE_SHIFT if spec.is_wide else MAX_SHIFT
    if np.any(n > most_shift):
        raise ValueError(f"shift {int(n.max())} is over {most_shift}")
    common = common or max(int(n.max()), 1)
    step = np.int64(1) << common
    # Beyond 256 steps every accumulator but 0 saturates, and a larger multiplier would change nothing.
    m = np.minimum(np.asarray(multiplier, np.int64) << np.minimum(common - n, _WIDEST), step << spec.storage_bits)
    addend = np.int64(spec.zero_point) * step - (0 if spec.is_wide else step // 2)
    least, most = (spec.stored_min - 1) * step + 1, spec.stored_max * step - 1
    if spec.is_wide:
        least, most = spec.stored_min * step, spec.stored_max * step
    limits = int(least), int(most)
    folded = addend + bias_ * m
    if accumulators is not None:
        ends = [np.asarray(end, np.int64) * m for end in accumulators]
        sums = [end + folded for end in ends]
        if _fits(*ends, *sums, folded):
            inside = np.all(sums[0] >= least) and np.all(sums[1] <= most)
            return Requantization(None, None, None, m, folded, None if inside else limits, common, spec.is_wide)
    low, high = spec.qmin * step // m, -(-spec.qmax * step // m)
    # Where one accumulator step is over half an output step, what is clipped may still overshoot.
    overshoot = None if np.all(m <= step // 2) and not spec.is_wide else limits
    if _fits((low - bias_) * m, (high - bias_) * m, folded):
        return Requantization(None, low - bias_, high - bias_, m, folded, overshoot, common, spec.is_wide)
    return Requantization(bias_, low, high, m, np.asarray(addend), overshoot, common, spec.is_wide)


def _fits(*values: IntArray) -> bool:
    return all(bool(np.all(np.abs(value) <= _INT32_MAX)) for value in values)


def requantize(acc: I, constants: Requantization) -> I:
    """Stored codes (zero point included) of int32 accumulators `[..., C]`.

    `addend` is the half that rounds up, less one step, so `p >> shift` is the code rounded half up, less one. The one
    is added again, but where p is a whole and even number of steps: there a tie went up to an odd code.
    """
    c, xp = constants, integers(acc)
    if c.bias is not None:
        acc = acc + c.bias
    if c.low is not None and c.high is not None:
        acc = xp.minimum(xp.maximum(acc, c.low), c.high)
    p: I = acc * c.multiplier + c.addend
    if c.limits is not None:
        p = xp.clip(p, *c.limits)
    if c.is_wide:
        return divide_half_even(p, 1 << c.shift)
    codes: I = (p >> c.shift) + xp.not_equal(p & (2 ** (c.shift + 1) - 1), 0)
    return codes


def on_grid(codes: I, source: QuantSpec, target: QuantSpec, *, most: int | None = None) -> I:
    """Stored codes of a grid, int32, on another one, rounded half to even.

    most: of the distance in octaves, where farther ones are to give what this one gives: a code of 0.
    """
    shift = target.exponent - source.exponent
    limits = (source.stored_min, source.stored_max)
    constants = requantization(1, shift if most is None else min(shift, most), target, -source.zero_point, limits)
    return requantize(codes, constants)


def divide_half_even(numerator: I, denominator: I | AnyArray | int) -> I:
    """`numerator / denominator` for integers >= 0 and > 0, rounded half to even."""
    quotient: I = numerator // denominator
    # Up where the remainder is over a half, or is the half and the quotient is odd.
    twice = (numerator - quotient * denominator) * 2 + (quotient & 1)
    rounded: I = quotient + twice // (denominator + 1)
    return rounded


def divide_by_odd(numerator: I, denominator: I) -> I:
    """`numerator / denominator` for integers >= 0 and an odd one, rounded to the nearest: halfway there is none."""
    rounded: I = (numerator + denominator // 2) // denominator
    return rounded


def accumulator_range(rows: IntArray, qmin: int, qmax: int) -> tuple[IntArray, IntArray]:
    """The smallest and the largest sum `[C]` of weights `[C, K]` times integers between qmin and qmax, 0 included."""
    positive, negative = np.maximum(rows, 0).sum(axis=1), np.minimum(rows, 0).sum(axis=1)
    low, high = min(qmin, 0), max(qmax, 0)
    return positive * low + negative * high, positive * high + negative * low
