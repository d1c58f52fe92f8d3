"""Rounding with feedback: codes stay within their limits, and the layer's output errs less than by nearest rounding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpipe.arith import feedback
from qpipe.arith.feedback import OutputError
from qpipe.arith.weights import pair_excess

QMAX, LIMIT = 127, 128


def correlated(size: int, rng: np.random.Generator) -> np.ndarray:
    """Second moments of neighbours that are alike, as pixels are."""
    x = np.cumsum(rng.standard_normal((500, size)), axis=1) * 0.3 + rng.standard_normal((500, size))
    return x.T @ x / len(x)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 40), st.floats(20, 200), st.integers(0, 2**16))
def test_codes_are_within_range_and_pairs_within_their_limit(channels: int, size: int, peak: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.uniform(-peak, peak, (channels, size))
    codes = OutputError(correlated(size, rng)[None]).round(rows, qmax=QMAX, pair_limit=LIMIT)
    assert np.array_equal(codes, np.round(codes))
    assert np.abs(codes).max() <= QMAX
    assert not pair_excess(codes, LIMIT).any()


@pytest.mark.parametrize("limit", [None, LIMIT])
@pytest.mark.parametrize("widest", [1024, 16])
def test_the_output_errs_less_than_by_the_nearest(
    limit: int | None, widest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "WIDEST", widest)
    rng = np.random.default_rng(0)
    rows = rng.uniform(-100, 100, (8, 100))
    error = OutputError(correlated(100, rng)[None])
    nearest = np.round(rows)
    assert (error.of(rows, error.round(rows, qmax=QMAX, pair_limit=None)) < error.of(rows, nearest)).all()
    if limit is not None:
        excess = pair_excess(nearest, limit)
        assert excess.any()
        trimmed = nearest.copy()
        trimmed[:, ::2] -= np.sign(nearest[:, ::2]) * np.ceil(excess / 2)
        trimmed[:, 1::2] -= np.sign(nearest[:, 1::2]) * np.floor(excess / 2)
        safe = error.round(rows, qmax=QMAX, pair_limit=limit)
        assert error.of(rows, safe).sum() < error.of(rows, trimmed).sum()


def test_inputs_that_have_nothing_in_common_leave_the_nearest() -> None:
    rows = np.random.default_rng(0).uniform(-100, 100, (4, 30))
    assert np.array_equal(OutputError(np.eye(30)[None]).round(rows, qmax=QMAX, pair_limit=None), np.round(rows))


def test_inputs_that_are_zero_are_no_obstacle() -> None:
    rows = np.random.default_rng(0).uniform(-100, 100, (4, 6))
    assert np.array_equal(OutputError(np.zeros((1, 6, 6))).round(rows, qmax=QMAX, pair_limit=None), np.round(rows))


def test_the_error_is_that_of_the_products() -> None:
    rng = np.random.default_rng(0)
    x, rows = rng.standard_normal((50, 7)), rng.uniform(-9, 9, (3, 7))
    found = OutputError((x.T @ x / len(x))[None]).of(rows, np.round(rows))
    # float64 sums in another order
    assert found == pytest.approx((((rows - np.round(rows)) @ x.T) ** 2).mean(axis=1), rel=1e-9)


@pytest.mark.parametrize("limit", [None, LIMIT])
def test_groups_and_ways_are_as_if_each_were_alone(limit: int | None) -> None:
    """Rows of two groups, in three variants: what is done to all at once is done to each."""
    rng = np.random.default_rng(0)
    moments = np.array([correlated(40, rng), correlated(40, rng)])
    rows = rng.uniform(-100, 100, (3, 8, 40))
    both = OutputError(moments)
    codes = both.round(rows, qmax=QMAX, pair_limit=limit)
    for group, part in ((0, slice(0, 4)), (1, slice(4, 8))):
        one = OutputError(moments[group][None])
        for way in range(3):
            alone = one.round(rows[way, part], qmax=QMAX, pair_limit=limit)
            np.testing.assert_array_equal(codes[way, part], alone)
            # float64 sums in another order
            assert both.of(rows, codes)[way, part] == pytest.approx(one.of(rows[way, part], alone), rel=1e-9)
