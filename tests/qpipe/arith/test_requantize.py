"""Requantization and division against rational arithmetic, and inside int32 all the way."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.arith.quantize import MAX_SHIFT, Requantization, divide_half_even, requantization, requantize
from qpipe.arith.spec import QuantSpec

INT32_MAX = 2**31 - 1
SPECS = st.one_of(
    st.builds(QuantSpec.unsigned, st.integers(2, 8), st.just(0)),
    st.builds(QuantSpec.signed, st.integers(2, 8), st.just(0)),
    st.sampled_from([QuantSpec(0, -128, 127, 128), QuantSpec(0, 0, 100, 128), QuantSpec(0, 0, 77)]),
)
CHANNELS = 3


def exact(acc: int, bias: int, multiplier: int, shift: int, spec: QuantSpec) -> int:
    steps = round(Fraction((acc + bias) * multiplier) / Fraction(2) ** shift)  # half to even
    return min(max(steps, spec.qmin), spec.qmax) + spec.zero_point


def near_ties(multiplier: int, shift: int, bias: int, spec: QuantSpec) -> list[int]:
    """Accumulators around each half step of the range, and a little beyond."""
    half = Fraction(2) ** (shift - 1) / multiplier
    return [int((2 * q + 1) * half) - bias + d for q in range(spec.qmin - 2, spec.qmax + 2) for d in (-1, 0, 1)]


@given(st.data())
def test_requantize_is_the_rational_result_within_int32(data):
    draw = data.draw
    spec = draw(SPECS)
    columns = [draw(st.tuples(st.integers(1, 255), st.integers(-20, MAX_SHIFT), st.integers(-(2**30), 2**30)))
               for _ in range(CHANNELS)]  # fmt: skip
    multiplier, shift, bias = np.array(columns).T
    reach = draw(st.sampled_from([None, 2**8, 2**14, 2**20, 2**30 - 1]))
    low, high = (-reach, reach) if reach is not None else (-INT32_MAX + 2**30, INT32_MAX - 2**30)
    drawn = draw(st.lists(st.integers(low, high), min_size=1, max_size=5))
    ties = [near_ties(*column, spec) for column in columns]
    rows = [*([value] * CHANNELS for value in drawn), *zip(*ties, strict=True)]
    acc = np.array([[min(max(a, low), high) for a in row] for row in rows])
    constants = requantization(multiplier, shift, spec, bias, None if reach is None else (low, high))
    expected = [[exact(int(a), *map(int, (b, m, n)), spec) for a, m, n, b in zip(row, multiplier, shift, bias, strict=True)]
                for row in acc]  # fmt: skip
    np.testing.assert_array_equal(requantize(acc, constants), expected)
    assert largest_value(acc, constants) <= INT32_MAX


def largest_value(acc: np.ndarray, c: Requantization) -> int:
    """The largest magnitude on the way to the shift."""
    biased = acc if c.bias is None else acc + c.bias
    clipped = biased if c.low is None else np.clip(biased, c.low, c.high)
    steps = (biased, clipped, clipped * c.multiplier, c.addend, clipped * c.multiplier + c.addend)
    return max(int(np.abs(step).max()) for step in steps)


def test_accumulators_that_cannot_overflow_are_not_clipped_before():
    spec = QuantSpec.unsigned(8, 0)
    assert requantization(3, 10, spec, 5, (-1000, 1000)).low is None
    assert requantization(3, 10, spec, 5).low is not None
    assert requantization(3, 10, spec, 5, (-(2**30), 2**30)).low is not None


def test_results_that_cannot_saturate_are_not_clipped_behind():
    assert requantization(1, 2, QuantSpec.unsigned(8, 0), 0, (0, 255 * 4)).limits is None
    assert requantization(1, 2, QuantSpec.unsigned(8, 0), 0, (-10, 255 * 4)).limits is not None


def test_a_shift_beyond_the_limit_is_refused():
    with pytest.raises(ValueError, match="shift 23 is over 22"):
        requantization(1, MAX_SHIFT + 1, QuantSpec.unsigned(8, 0))


@given(st.lists(st.tuples(st.integers(0, 2**24), st.integers(1, 4000)), min_size=1, max_size=20))
def test_divide_half_even_is_the_rational_quotient(pairs):
    numerators, denominators = np.array(pairs).T
    expected = [round(Fraction(int(a), int(b))) for a, b in pairs]
    np.testing.assert_array_equal(divide_half_even(numerators, denominators), expected)


@pytest.mark.parametrize("denominator", [1, 2, 3, 6, 7, 49, 64])
def test_divide_half_even_at_every_small_numerator(denominator):
    numerators = np.arange(20 * denominator)
    expected = [round(Fraction(int(a), denominator)) for a in numerators]
    np.testing.assert_array_equal(divide_half_even(numerators, np.int64(denominator)), expected)
