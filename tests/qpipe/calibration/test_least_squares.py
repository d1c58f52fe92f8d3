import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.calibration.least_squares import NormalEquations

FLOAT64 = 1e-9  # of float64 sums of some hundred numbers, beside the same in another order
EXACTLY = 1e-12  # of a ridge: nothing is held back


def equations(rows: np.ndarray, targets: np.ndarray, pieces: int = 1) -> NormalEquations:
    found = NormalEquations.none(rows.shape[1], targets.shape[1])
    for own, asked in zip(np.array_split(rows, pieces), np.array_split(targets, pieces), strict=True):
        found.add(own, asked)
    return found


def drawn(seed: int, rows: int = 200, width: int = 5, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shift = rng.standard_normal(width)
    return rng.standard_normal((rows, width)) + shift, rng.standard_normal((rows, channels))


def test_a_linear_map_is_found() -> None:
    rows, weight = drawn(0)[0], np.arange(15.0).reshape(3, 5)
    found = equations(rows, rows @ weight.T + [1, -2, 3]).solve(EXACTLY)
    np.testing.assert_allclose(found.weight, weight, atol=1e-6)
    np.testing.assert_allclose(found.bias, [1, -2, 3], atol=1e-6)


@given(st.integers(0, 100), st.integers(1, 7))
def test_pieces_and_halves_are_the_whole(seed: int, pieces: int) -> None:
    rows, targets = drawn(seed)
    whole = equations(rows, targets).solve()
    merged = equations(rows[:50], targets[:50]).merged(equations(rows[50:], targets[50:], pieces)).solve()
    np.testing.assert_allclose(merged.weight, whole.weight, atol=FLOAT64)
    np.testing.assert_allclose(merged.bias, whole.bias, atol=FLOAT64)


@given(st.integers(0, 100))
def test_error_mean_and_variance_are_those_of_the_rows(seed: int) -> None:
    rows, targets = drawn(seed)
    others, of_others = drawn(seed + 1000)
    found = equations(rows, targets).solve()
    left = others @ found.weight.T + found.bias - of_others
    expected = np.square(left).mean(axis=0).sum() / of_others.var(axis=0).sum()
    assert equations(others, of_others).error(found) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(found.mean, (rows @ found.weight.T).mean(axis=0), atol=FLOAT64)
    np.testing.assert_allclose(found.variance, (rows @ found.weight.T).var(axis=0), atol=FLOAT64)


def test_no_other_map_is_nearer() -> None:
    rows, targets = drawn(3)
    own = equations(rows, targets)
    found = own.solve(EXACTLY)
    rng = np.random.default_rng(4)
    for _ in range(20):
        other = type(found)(found.weight + 1e-2 * rng.standard_normal((3, 5)), found.bias, found.mean, found.variance)
        assert own.error(other) > own.error(found)


def test_the_ridge_is_that_of_the_equation() -> None:
    """(A^T A / n + lambda I)^-1 A^T T / n of centred rows and targets."""
    rows, targets = drawn(5)
    a, t = rows - rows.mean(axis=0), targets - targets.mean(axis=0)
    covariance = a.T @ a / len(a)
    ridge = 0.1 * np.trace(covariance) / 5 * np.eye(5)
    expected = np.linalg.solve(covariance + ridge, a.T @ t / len(a)).T
    np.testing.assert_allclose(equations(rows, targets).solve(0.1).weight, expected, atol=FLOAT64)


def test_rows_that_never_vary_leave_the_mean() -> None:
    targets = np.array([[1.0], [3.0]])
    found = equations(np.ones((2, 4)), targets).solve()
    assert np.array_equal(found.weight, np.zeros((1, 4)))
    assert found.bias == [2.0]
