"""Rounding to powers of two: by definition, in numpy and in torch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpipe.arith.power_of_two import Rounding, rounded_log2

ROUNDINGS = st.sampled_from(["ceil", "nearest"])
POSITIVE = st.floats(2.0**-60, 2.0**60)


@given(POSITIVE, ROUNDINGS)
def test_by_definition(x: float, rounding: Rounding) -> None:
    power = 2.0 ** int(rounded_log2(np.asarray(x), rounding))
    if rounding == "ceil":
        assert power / 2 < x <= power
    else:
        # Squares of floats of 53 bits, compared exactly.
        numerator, denominator = x.as_integer_ratio()
        low, high = (int(power * 2.0**80) * factor for factor in (1, 2))
        assert low**2 * denominator**2 <= 2 * (numerator << 80) ** 2 <= high**2 * denominator**2


@pytest.mark.parametrize("rounding", ["ceil", "nearest"])
@pytest.mark.parametrize("log2", [-126, -7, -1, 0, 1, 24])
def test_powers_of_two_stay(rounding: Rounding, log2: int) -> None:
    assert rounded_log2(np.asarray(2.0**log2), rounding) == log2


def test_between_two_powers() -> None:
    assert [int(rounded_log2(np.asarray(x), "nearest")) for x in (1.4, 1.42, 2.8, 2.9)] == [0, 1, 1, 2]
    assert [int(rounded_log2(np.asarray(x), "ceil")) for x in (1.4, 1.42, 2.8, 2.9)] == [1, 1, 2, 2]
    assert rounded_log2(np.asarray(math.nextafter(2.0, 3)), "ceil") == 2


@given(st.lists(POSITIVE, min_size=1, max_size=8), ROUNDINGS)
def test_numpy_equals_torch(values: list[float], rounding: Rounding) -> None:
    array = np.array(values)
    found = rounded_log2(torch.from_numpy(array), rounding)
    np.testing.assert_array_equal(found.numpy(), rounded_log2(array, rounding))
