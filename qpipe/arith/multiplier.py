"""Batch normalization as integers: an 8-bit multiplier, a shift and an int32 bias per channel.

`y = k (conv - mean) + beta`, `k = gamma / sqrt(var + eps)`, becomes `round((acc + bias) * m * 2**-n)` output steps.
The sign of k moves into the weights; `|k| ~ m * 2**e`. Everything is float64 or integer, so numpy and torch agree to
the bit.

Source: FAQ, section 2.1 ("all other scalar multiplicative constants 8-bit, additive constants 32-bit integers").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic

from qpipe.arith.namespace import A, namespace
from qpipe.arith.power_of_two import rounded_log2
from qpipe.arith.quantize import MAX_SHIFT
from qpipe.arith.spec import QuantSpec
from qpipe.arith.weights import NO_FLOOR, ZERO_EXPONENT

MULTIPLIER_BITS = 8
FLOAT32_EXACT = 2**24  # up to here float32 holds every integer
_BIAS_BITS = 30
BIAS_LIMIT = 2.0**_BIAS_BITS  # a bias beyond it saturates the output whatever the accumulator
_SMALLEST = 2.0**-64  # a smaller |k| is 0: nothing that it multiplies is seen, and its scales would leave float32
_INVISIBLE = 0.25  # in output steps: what is smaller changes hardly any output
_ZERO_CHANNEL_SHIFT = 8  # of a channel whose multiplier is 0: its bias has 8 bits below the output's step


@dataclass(frozen=True)
class IntegerAffine(Generic[A]):
    """Per channel, all `[C]`: y = sign-corrected `(acc + bias) * multiplier * 2**exponent` accumulator units.

    sign is -1, 0 or 1 (0: the weights become zero, all that is left is a constant). The shift to output steps is
    `n = l_y - l_x - l_w - exponent`.
    """

    sign: A
    multiplier: A
    exponent: A
    bias: A
    shift: A


def shift_bound(output: QuantSpec) -> int:
    """The largest n at which float32 requantization is exact for any int32 accumulator: 24 - b, signed 25 - b.

    That is 24 less the bits of the largest magnitude, one more where the zero point is off the middle. Every product
    whose result does not saturate is then below 2**24 (docs/numbers.md, exactness, part 2). Of the narrowest outputs it
    is `MAX_SHIFT`, where int32 ends. A least code of -2**b saturates beside 2**24, and needs no bit more.
    """
    return min(24 - output.peak.bit_length(), MAX_SHIFT)


def split(k: A) -> tuple[A, A]:
    """`|k| ~ m * 2**e` with m rounded half to even to `MULTIPLIER_BITS` bits; m in [128, 255], float64; k=0 gives 0."""
    xp = namespace(k)
    mantissa, exponent = xp.frexp(abs(k))
    m = xp.round(mantissa * 2**MULTIPLIER_BITS)
    carry = m == 2**MULTIPLIER_BITS
    return xp.where(carry, m / 2, m), exponent - MULTIPLIER_BITS + carry * 1


def weight_exponent_floor(k: A, beta: A, input_exponent: int, output: QuantSpec | None, *, largest: A) -> A:
    """The smallest weight exponent, int `[C]`, at which a multiplier of one bit still meets the shift bound.

    Of a last layer (output None): at which the bias is at most `BIAS_LIMIT`. A channel whose `largest` product `[C]` is
    invisible behind k has none: `fit` makes it zero where it must, and where all channels have one exponent it would
    take the others with it.

    None is so low that a trainable file can't be run as it lies: the product of both scales is a normal float32, and a
    bias without a batch normalization behind it (k is 1), which a runtime may store in that unit, at most `BIAS_LIMIT`.
    """
    xp = namespace(k)
    lowest = max(NO_FLOOR, NO_FLOOR - input_exponent)
    _, e = xp.frexp(beta)
    of_bias = xp.clip(xp.where((k == 1) & (beta != 0), e - input_exponent - _BIAS_BITS, lowest), lowest, None)
    if output is None:
        return of_bias
    _, e = split(k)
    floor = output.exponent - input_exponent - e - (MULTIPLIER_BITS - 1) - shift_bound(output)
    return xp.maximum(xp.where(abs(k) * largest < _INVISIBLE * output.scale, lowest, floor), of_bias)


def fit(
    k: A,
    beta: A,
    mean: A,
    *,
    weight_exponent: A,
    input_exponent: int,
    output: QuantSpec | None,
    weight_sum: A,
    bound: int | None = None,
) -> IntegerAffine[A]:
    """The integers of `k (conv - mean) + beta`, all arguments float64 or int `[C]`.

    output None is a last layer: the accumulator itself leaves, without a multiplier (k must be 1, mean 0), because
    integers of different units can't be compared.

    bound: the largest shift; by default `shift_bound`, for what a runtime requantizes in float32.
    weight_sum: `sum |q_w| * qmax_x`, the largest accumulator. A multiplier is shortened (each bit takes one off n)
    where n is over the bound and float32 could not hold the product either; one bit suffices if the weights respect
    `weight_exponent_floor`, and where it doesn't the channel becomes its constant. A convolution without
    batch normalization has k = 1, mean = 0 and its bias as beta.
    """
    xp = namespace(k)
    accumulator_exponent = weight_exponent + input_exponent
    if output is None:
        bias, zero = xp.round(xp.ldexp(beta, -accumulator_exponent)), xp.zeros_like(weight_exponent)
        return IntegerAffine(xp.ones_like(k), xp.ones_like(k), zero, bias, zero)
    most = shift_bound(output) if bound is None else bound
    is_zero = (abs(k) < _SMALLEST) | (weight_sum == 0)
    m, e = _without_trailing_zeros(*split(xp.where(is_zero, 1.0, k)))
    n = output.exponent - accumulator_exponent - e
    bias = _bias(beta, mean, xp.sign(k), m, e, accumulator_exponent)
    in_float32 = ((weight_sum + abs(bias)) * m <= FLOAT32_EXACT) & (n <= MAX_SHIFT)
    spare_bits = xp.frexp(m)[1] - 1
    excess = xp.where(in_float32, 0, xp.clip(n - most, 0, None))
    is_zero = is_zero | (excess > spare_bits)
    excess = xp.minimum(excess, spare_bits)
    m, e = _without_trailing_zeros(xp.round(xp.ldexp(m, -excess)), e + excess)
    bias = _bias(beta, mean, xp.sign(k), m, e, accumulator_exponent)
    # A channel that its input doesn't reach.
    of_zero = output.exponent - accumulator_exponent - _ZERO_CHANNEL_SHIFT
    zero = xp.zeros_like(k)
    constant = _bias(beta - k * mean, zero, zero, xp.ones_like(k), of_zero, accumulator_exponent)
    m, e = xp.where(is_zero, 1.0, m), xp.where(is_zero, of_zero, e)
    bias, sign = xp.where(is_zero, constant, bias), xp.where(is_zero, 0.0, xp.sign(k))
    return IntegerAffine(sign, m, e, bias, output.exponent - accumulator_exponent - e)


def fit_alone(k: A, beta: A, mean: A, *, source: QuantSpec, output: QuantSpec) -> tuple[A, A, IntegerAffine[A]]:
    """A batch normalization without a convolution before it: codes `[C]` and exponents `[C]` of k, and what is added.

    k itself is the 8-bit weight of a 1×1 depthwise convolution, so its integers have multiplier 1. The bias is fitted
    to the coded k, which keeps the channel's centre where it is.
    """
    xp = namespace(k)
    ones, qmax = xp.ones_like(k), 2 ** (MULTIPLIER_BITS - 1) - 1
    floor = weight_exponent_floor(ones, beta, source.exponent, output, largest=ones * math.inf)
    step = abs(k) * (2.0 / (2**MULTIPLIER_BITS - 1))
    exponent = xp.maximum(xp.where(step > 0, rounded_log2(step, "ceil"), ZERO_EXPONENT), floor)
    codes = xp.clip(xp.round(k / xp.ldexp(ones, exponent)), -qmax, qmax)
    integers = fit(
        ones,
        beta - xp.ldexp(codes, exponent) * mean,
        xp.zeros_like(mean),
        weight_exponent=exponent,
        input_exponent=source.exponent,
        output=output,
        weight_sum=abs(codes) * source.largest,
    )
    return codes, exponent, integers


def _bias(beta: A, mean: A, sign: A, m: A, e: A, accumulator_exponent: A) -> A:
    """`beta / k - mean` in accumulator units, int32 in float64: so the centre of the channel stays where it is."""
    xp = namespace(beta)
    in_units = beta / xp.ldexp(m, e + accumulator_exponent) - sign * xp.ldexp(mean, -accumulator_exponent)
    return xp.clip(xp.round(in_units), -BIAS_LIMIT, BIAS_LIMIT)


def _without_trailing_zeros(m: A, e: A) -> tuple[A, A]:
    """The same number with an odd m: a smaller product for nothing."""
    xp = namespace(m)
    for step in (4, 2, 1):
        shorter = m * 2.0**-step
        is_whole = xp.round(shorter) == shorter
        m, e = xp.where(is_whole, shorter, m), e + is_whole * step
    return m, e
