"""Algorithm 1 in rational numbers, one element after the other: what the fast quantization must equal to the bit."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from qpipe.arith.mls.formats import ElementFormat, GroupFormat, MlsFormat, Overflow
from qpipe.arith.mls.generators import PART_BITS

ELEMENTS = [ElementFormat(e, m) for e in range(6) for m in range(9) if e + m]
GROUP_FORMATS = [GroupFormat(e, m) for e in (1, 2, 5, 8) for m in (0, 1)]
MIN_NORMAL = Fraction(1, 2**126)


@dataclass(frozen=True)
class Number:
    """One of a format's numbers, with its two fields."""

    field: int
    mantissa: int
    value: Fraction


@cache
def numbers(element: ElementFormat) -> tuple[Number, ...]:
    """All that are not negative, in ascending order."""
    step = 2**element.mantissa
    found = []
    for field in range(2**element.exponent):
        for mantissa in range(step):
            fraction = Fraction(mantissa, step) + (field > 0)
            exponent = max(field, 1) - 2**element.exponent
            found.append(Number(field, mantissa, fraction * Fraction(2) ** exponent))
    return tuple(found)


def float32(x: Fraction) -> Fraction:
    """The nearest float32, half to even; x within its range."""
    if x == 0:
        return x
    exponent = max(_log2(abs(x)), -126)
    unit = Fraction(2) ** (exponent - 23)
    return round(x / unit) * unit


def _log2(x: Fraction) -> int:
    """The largest exponent whose power of two is not above x."""
    guess = x.numerator.bit_length() - x.denominator.bit_length()
    return guess if Fraction(2) ** guess <= x else guess - 1


def rounded(t: Fraction, element: ElementFormat, overflow: Overflow = "carry", k: int | None = None) -> Fraction:
    """The element for t; k: the random part of a unit that is added first, times 2**16."""
    grid, sign = numbers(element), -1 if t < 0 else 1
    below = bisect_right(grid, abs(t), key=lambda number: number.value) - 1
    if below == len(grid) - 1:
        return sign * grid[-1].value
    low, high = grid[below], grid[below + 1]
    unit = high.value - low.value
    if k is not None:
        t = float32(t + Fraction(k, 2**PART_BITS) * unit)
    beyond = sign * t - low.value
    goes_up = beyond > unit / 2 or (beyond == unit / 2 and high.value / unit % 2 == 0)
    if goes_up and overflow == "clip" and high.field > low.field:
        goes_up = False
    return sign * (high if goes_up else low).value


def tensor_scale(largest: Fraction, *, power_of_two: bool = False) -> Fraction:
    """St of a tensor with this largest magnitude."""
    scale = max(largest, MIN_NORMAL)
    if power_of_two:
        exponent = _log2(scale)
        scale = Fraction(2) ** min(exponent + (scale > Fraction(2) ** exponent), 127)
    return scale


def group_scale(largest: Fraction, scale: Fraction, fmt: MlsFormat) -> Fraction:
    """Sg of a group with this largest magnitude: of all that the format has, the smallest that will do."""
    if fmt.grouping == "none":
        return Fraction(1)
    ratio, fractions = float32(largest / scale), (1, Fraction(3, 2))[: fmt.group.mantissa + 1]
    # Both products stay in float32's normal numbers: with an element, and with the tensor's scale.
    least = Fraction(2) ** max(-126 - fmt.element.unit, -126 - _log2(scale))
    exponents = range(1 - 2**fmt.group.exponent, 1)
    for found in (fraction * Fraction(2) ** exponent for exponent in exponents for fraction in fractions):
        if found >= ratio and found >= least:
            return min(found, Fraction(1))
    return Fraction(1)


@dataclass(frozen=True)
class Quantized:
    """What `quantize` is to give; the arrays hold fractions and have x's axes."""

    values: npt.NDArray[Any]
    scale: Fraction
    group_scale: npt.NDArray[Any]


def groups_of(shape: tuple[int, ...], fmt: MlsFormat, groups: int = 1) -> npt.NDArray[np.int64]:
    """For each element the number of its group; groups: of a convolution, whose weight has this shape."""
    index = np.indices(shape)
    zero = np.zeros(shape, np.int64)
    first = index[0] if "n" in fmt.grouping.replace("none", "") else zero
    second = index[1] if "c" in fmt.grouping else zero
    if fmt.grouping == "c":
        first = index[0] // (shape[0] // groups)
    _, found = np.unique(np.stack([first.ravel(), second.ravel()]), axis=1, return_inverse=True)
    return found.reshape(shape).astype(np.int64)


def quantized(
    x: npt.NDArray[np.float32], fmt: MlsFormat, ks: npt.NDArray[np.int16] | None = None, groups: int = 1
) -> Quantized:
    """ks: for each element its random part of a unit, times 2**16."""
    exact = np.vectorize(Fraction, otypes=[object])(x.astype(np.float64)) if x.size else x.astype(object)
    scale = tensor_scale(max(map(abs, exact.flat), default=Fraction(0)), power_of_two=fmt.power_of_two)
    of = np.zeros(x.shape, np.int64) if fmt.grouping == "none" else groups_of(x.shape, fmt, groups)
    scales = [
        group_scale(max(map(abs, exact[of == group])), scale, fmt) for group in range(int(of.max(initial=-1)) + 1)
    ]
    values, group_scales = np.empty(x.shape, object), np.empty(x.shape, object)
    for place in np.ndindex(x.shape):
        own = group_scales[place] = scales[of[place]]
        t = float32(exact[place] / float32(own * scale))
        k = None if ks is None else int(ks[place])
        values[place] = own * rounded(t, fmt.element, fmt.overflow, k)
    return Quantized(values, scale, group_scales)
