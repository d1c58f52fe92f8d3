"""Quantize, requantize and divide against exact rational numbers."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpipe.arith.quantize import (
    MAX_SHIFT,
    Requantization,
    dequantize,
    divide_half_even,
    quantize,
    requantization,
    requantize,
)
from qpipe.arith.spec import QuantSpec

INT32 = range(-(2**31), 2**31)

SPECS = [
    *(QuantSpec.unsigned(bits, 0) for bits in range(2, 9)),
    *(QuantSpec.signed(bits, 0) for bits in range(2, 9)),
    QuantSpec(0, -128, 127, 128),
    QuantSpec(0, 0, 192),
    QuantSpec(0, 0, 127, 128),
    QuantSpec(0, 0, 1),
]


class Int32:
    """Integers that refuse to leave int32, at every step of a formula."""

    def __init__(self, value: Any) -> None:
        array = np.asarray(value).astype(object)
        assert all(int(v) in INT32 for v in array.reshape(-1)), f"{array} leaves int32"
        self.value = array

    def _apply(self, other: Any, function: Any) -> Int32:
        return Int32(function(self.value, (other if isinstance(other, Int32) else Int32(other)).value))

    def __add__(self, other: Any) -> Int32:
        return self._apply(other, lambda a, b: a + b)

    def __mul__(self, other: Any) -> Int32:
        return self._apply(other, lambda a, b: a * b)

    def __and__(self, other: Any) -> Int32:
        return self._apply(other, lambda a, b: a & b)

    def __rshift__(self, other: Any) -> Int32:
        return self._apply(other, lambda a, b: a >> b)

    def __array_namespace__(self) -> type[Int32]:
        return Int32

    @staticmethod
    def not_equal(a: Any, b: int) -> Int32:
        return a._apply(b, lambda a, b: (a != b) * 1)

    @staticmethod
    def clip(a: Any, low: int, high: int) -> Int32:
        return Int32.minimum(Int32.maximum(a, low), high)

    @staticmethod
    def minimum(a: Any, b: Any) -> Int32:
        return a._apply(b, np.minimum)

    @staticmethod
    def maximum(a: Any, b: Any) -> Int32:
        return a._apply(b, np.maximum)


def exact(acc: int, m: int, n: int, spec: QuantSpec, bias: int) -> int:
    """The definition: Python rounds a Fraction half to even."""
    return min(max(round(Fraction((acc + bias) * m) / Fraction(2) ** n), spec.qmin), spec.qmax) + spec.zero_point


def interesting(m: int, n: int, spec: QuantSpec, bias: int) -> list[int]:
    """Accumulators at and beside every half step that is near an end, around 0, and at the ends of int32."""
    unit = Fraction(m) / Fraction(2) ** n
    steps = [spec.qmin - 1, spec.qmin, -2, -1, 0, 1, 2, spec.qmax - 1, spec.qmax]
    near = [int((step + Fraction(1, 2)) / unit) - bias + d for step in steps for d in (-2, -1, 0, 1, 2)]
    return [*near, 0, 1, -1, -bias, 2**31, -(2**31)]


def check(m: int, n: int, spec: QuantSpec, bias: int, extra: list[int]) -> Requantization:
    constants = requantization(m, n, spec, bias)
    # The certificate's first part: accumulator and bias together stay in int32.
    room = 2**31 - 1 - abs(bias)
    accumulators = [min(max(acc, -room), room) for acc in [*interesting(m, n, spec, bias), *extra]]
    expected = [exact(acc, m, n, spec, bias) for acc in accumulators]
    assert requantize(Int32(accumulators), constants).value.tolist() == expected
    assert requantize(np.array(accumulators, np.int64), constants).tolist() == expected
    return constants


@given(
    m=st.integers(1, 255),
    n=st.integers(-10, MAX_SHIFT),
    spec=st.sampled_from(SPECS),
    bias=st.one_of(st.just(0), st.integers(-300, 300), st.integers(-(2**30), 2**30)),
    extra=st.lists(st.integers(-(2**30), 2**30), max_size=20),
)
def test_requantize_is_exact_in_int32(m: int, n: int, spec: QuantSpec, bias: int, extra: list[int]) -> None:
    check(m, n, spec, bias, extra)


@given(n=st.integers(-120, -8), m=st.integers(1, 255), spec=st.sampled_from(SPECS), bias=st.integers(-3, 3))
def test_steps_of_any_coarseness(m: int, n: int, spec: QuantSpec, bias: int) -> None:
    check(m, n, spec, bias, [])


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("n", [-1, 0, 1, 2, 5])
def test_every_accumulator(spec: QuantSpec, n: int) -> None:
    """All ties, all ends."""
    accumulators = np.arange(-(2**14), 2**14)
    for m in (1, 3, 37, 255):
        codes = requantize(accumulators, requantization(m, n, spec, -5))
        doubled = np.round((accumulators - 5) * m / 2.0**n)  # exact in float64
        np.testing.assert_array_equal(codes, np.clip(doubled, spec.qmin, spec.qmax) + spec.zero_point)


@given(
    m=st.integers(1, 255),
    n=st.integers(-10, MAX_SHIFT),
    spec=st.sampled_from(SPECS),
    bias=st.one_of(st.integers(-300, 300), st.integers(-(2**29), 2**29)),
    ends=st.tuples(st.integers(0, 2**30), st.integers(0, 2**30)),
    part=st.floats(0, 1),
)
def test_known_accumulators_save_work_and_change_nothing(
    m: int, n: int, spec: QuantSpec, bias: int, ends: tuple[int, int], part: float
) -> None:
    scale = 2 ** round(20 * part)
    least, most = -(ends[0] // scale), ends[1] // scale
    constants = requantization(m, n, spec, bias, accumulators=(least, most))
    accumulators = [acc for acc in interesting(m, n, spec, bias) if least <= acc <= most] + [least, most]
    expected = [exact(acc, m, n, spec, bias) for acc in accumulators]
    assert requantize(Int32(accumulators), constants).value.tolist() == expected


def test_a_small_bias_is_folded_and_a_large_one_is_not() -> None:
    assert check(200, 14, SPECS[6], 1234, []).bias is None
    large = check(200, 14, SPECS[6], 2**29, []).bias
    assert large is not None
    assert int(large) == 2**29


def test_channels_share_one_formula() -> None:
    m, n, bias = np.array([1, 255, 7]), np.array([-3, 16, 22]), np.array([5, -(2**29), 0])
    spec = QuantSpec.signed(8, 0)
    accumulators = np.random.default_rng(0).integers(-(2**20), 2**20, (50, 3))
    codes = requantize(accumulators, requantization(m, n, spec, bias))
    for c in range(3):
        expected = [exact(int(a), int(m[c]), int(n[c]), spec, int(bias[c])) for a in accumulators[:, c]]
        assert codes[:, c].tolist() == expected


def test_a_shift_that_int32_could_not_hold() -> None:
    requantization(255, MAX_SHIFT, SPECS[6])
    with pytest.raises(ValueError, match="shift 23 is over 22"):
        requantization(1, MAX_SHIFT + 1, SPECS[6])


@given(st.integers(0, 10**6), st.integers(1, 10**4))
def test_divide_half_even(numerator: int, denominator: int) -> None:
    assert divide_half_even(np.int64(numerator), np.int64(denominator)) == round(Fraction(numerator, denominator))


@pytest.mark.parametrize("denominator", [1, 2, 3, 4, 6, 7, 12, 49, 64])
def test_divide_half_even_of_all_sums(denominator: int) -> None:
    numerator = np.arange(255 * denominator + 1)
    np.testing.assert_array_equal(divide_half_even(numerator, np.int64(denominator)), np.round(numerator / denominator))


@given(
    x=st.floats(-1e6, 1e6, width=32), spec=st.sampled_from(SPECS), exponent=st.integers(-20, 12),
    halves=st.integers(-600, 600),
)  # fmt: skip
def test_quantize_clips_after_rounding(x: float, spec: QuantSpec, exponent: int, halves: int) -> None:
    spec = dataclasses.replace(spec, exponent=exponent)
    for value in (x, halves / 2 * spec.scale):
        expected = min(max(round(Fraction(value) / Fraction(2) ** exponent), spec.qmin), spec.qmax)
        array = np.array([value], np.float32)
        assert quantize(array, spec).tolist() == [expected]
        assert quantize(torch.from_numpy(array), spec).tolist() == [expected]
        assert dequantize(quantize(array, spec), spec).tolist() == [expected * spec.scale]
