"""LQ-Net's levels and QEM: the nearest level, an error that never grows, and integers that every reader gets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qpipe.arith.spec import QuantSpec
from qpipe.arith.weights import NO_FLOOR, pair_excess
from qpipe.formats.lq import (
    LQ,
    averaged,
    first_activation_basis,
    first_basis,
    levels_of,
    lq_codes,
    lq_exponents,
    lq_limit,
    lq_table,
    nearest,
    solve,
)

SEEDS, WIDTHS = st.integers(0, 2**32 - 1), st.integers(2, 4)


def error(x: np.ndarray, basis: np.ndarray, low: int, counts: np.ndarray | None = None) -> np.ndarray:
    """The squared error of each row."""
    levels, _ = levels_of(basis, low)
    distance = (x - nearest(x, levels)) ** 2
    return (distance if counts is None else distance * counts).sum(1)


def test_levels_of_both_kinds() -> None:
    levels, encoding = levels_of(np.array([[1.0, 0.25]]), -1)
    np.testing.assert_array_equal(levels, [[-1.25, -0.75, 0.75, 1.25]])
    np.testing.assert_array_equal(encoding, [[0, 2, 1, 3]])
    np.testing.assert_array_equal(levels_of(np.array([[1.0, 0.25]]), 0)[0], [[0, 0.25, 1, 1.25]])


def test_of_two_as_near_the_lower() -> None:
    np.testing.assert_array_equal(
        nearest(np.array([[-9, 0.5, 0.51, 2, 9]]), np.array([[0.0, 1, 3]])), [[0, 0, 1, 1, 3]]
    )


@given(SEEDS, WIDTHS)
def test_it_is_the_nearest_of_all(seed: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    basis, x = rng.normal(size=(3, bits)), rng.normal(size=(3, 50)) * 2
    levels, _ = levels_of(basis, -1)
    distances = np.abs(x[:, :, None] - levels[:, None])
    np.testing.assert_allclose(np.abs(x - nearest(x, levels)), distances.min(2))


@settings(max_examples=100)
@given(SEEDS, WIDTHS, st.sampled_from([-1, 0]), st.sampled_from([3, 40, 400]))
def test_an_iteration_never_raises_the_error(seed: int, bits: int, low: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4, size)) * rng.choice([1e-3, 1, 50])
    x, basis = (abs(x) if low == 0 else x), rng.normal(size=(4, bits)) * abs(x).max()
    counts = rng.integers(0, 5, (1, size)) if low == 0 else None
    before = error(x, basis, low, counts)
    for _ in range(4):
        basis = solve(x, basis, low, counts)
        after = error(x, basis, low, counts)
        assert np.all(after <= before * (1 + 1e-9) + 1e-12 * (x * x).sum(1))
        before = after


def test_it_finds_a_basis_that_fits() -> None:
    rng = np.random.default_rng(0)
    true = np.array([[0.25, 0.75, 1.5]])
    levels, _ = levels_of(true, -1)
    x = rng.choice(levels[0], (1, 2000))
    basis = true * rng.uniform(0.9, 1.1, (1, 3))
    for _ in range(30):
        basis = solve(x, basis, -1)
    np.testing.assert_allclose(basis, true, rtol=1e-6)


def test_what_is_not_in_use_stays() -> None:
    basis = np.array([[1.0, 2.0]])
    np.testing.assert_allclose(solve(np.zeros((1, 8)), basis, 0), basis)
    np.testing.assert_allclose(solve(np.zeros((1, 8)), basis, 0, np.zeros((1, 8))), basis)


@given(SEEDS, WIDTHS, st.sampled_from([255, 15, None]))
def test_codes_are_pair_safe_and_the_same_in_torch(seed: int, bits: int, stored_max: int | None) -> None:
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=(5, 36)) * 2.0 ** rng.integers(-9, 4, (5, 1))).astype(np.float32)
    limit = lq_limit(None if stored_max is None else 32767 // stored_max)
    spec, basis = LQ(bits, limit), first_basis(rows, bits)
    floor = np.full(5, NO_FLOOR)
    exponent = lq_exponents(basis, spec.limit, floor)
    codes = lq_codes(rows, exponent, basis)
    assert codes.dtype == np.float32
    assert np.abs(codes).max() <= limit
    assert all(len(np.unique(row)) <= 2**bits for row in codes)
    if stored_max is not None:
        assert not pair_excess(codes, 32767 // stored_max).any()
    levels, _ = levels_of(basis, -1)
    # The largest level takes more than half of the range.
    assert np.all(np.abs(levels).max(1) > 2.0**exponent * limit / 2)
    ours = torch.from_numpy(rows), torch.from_numpy(basis)
    found = lq_exponents(ours[1], spec.limit, torch.from_numpy(floor))
    np.testing.assert_array_equal(found, exponent)
    np.testing.assert_array_equal(lq_codes(ours[0], found, ours[1]), codes)
    np.testing.assert_allclose(solve(*ours, -1), solve(rows, basis, -1), rtol=1e-9)
    assert averaged(ours[1], solve(*ours, -1)).dtype == torch.float32


def test_the_first_basis_is_better_than_even_levels() -> None:
    rows = np.random.default_rng(0).laplace(size=(8, 300)).astype(np.float32)
    even = np.abs(rows).max(1, keepdims=True) * np.array([[1, 2, 4]]) / 7
    assert np.all(error(rows, first_basis(rows, 3), -1) < error(rows, even, -1))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_table_of_activations(bits: int) -> None:
    before = QuantSpec(-6, 0, 200)
    table = lq_table(first_activation_basis(2.5, 99.0, bits), before)
    assert table.grid == QuantSpec.unsigned(8, -6)
    assert (table.entries[0], table.bits, len(set(table.reached))) == (0, bits, 2**bits)
    assert list(table.entries) == sorted(table.entries)
    assert max(table.entries) <= before.stored_max


def test_negative_levels_are_zero() -> None:
    assert set(lq_table(np.float32([-0.5, 0.5]), QuantSpec.unsigned(8, -4)).entries) == {0, 8}


def test_the_moving_average_keeps_nine_tenths() -> None:
    """LQ-Nets, section 3.2: v <- 0.9 v + 0.1 v*."""
    basis, solution = np.array([[1.0, 2.0]]), np.array([[2.0, -3.0]])
    np.testing.assert_allclose(averaged(basis, solution), [[1.1, 1.5]], rtol=1e-15)  # a rounding of float64 or two
