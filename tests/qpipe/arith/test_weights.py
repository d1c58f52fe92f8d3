"""Power-of-two weight scales and the pair condition, by definition, in numpy and in torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qpipe.arith import weights
from qpipe.arith.weights import NO_FLOOR, WeightSpec, exponents, quantize_rows, round_rows, safe_codes, trim_pairs

FREE = WeightSpec(bits=8, clip=8.0)
SAFE = WeightSpec(bits=8, clip=8.0, pair_limit=128)
SUM = 1e-12  # float64 sums of a dozen squares, in another order
RNG = np.random.default_rng(0)


def no_floor(rows: np.ndarray) -> np.ndarray:
    return np.full(len(rows), NO_FLOOR)


def normal(*shape: int, scale: float = 0.1, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


@st.composite
def weight_rows(draw: st.DrawFn) -> np.ndarray:
    """Float32 `[C, K]`: any values, with outliers, ties and channels of zeros."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 12)))
    coarse = st.integers(-300, 300).map(lambda v: v / 128)
    fine = st.floats(-4, 4, width=32, allow_subnormal=False)
    rows = draw(arrays(np.float32, shape, elements=st.one_of(coarse, fine, st.just(0.0), st.just(3.984375))))
    return rows * np.float32(2.0 ** draw(st.integers(-30, 30)))


SPECS = st.builds(
    WeightSpec,
    bits=st.integers(2, 8),
    clip=st.sampled_from([2.0, 4.12, 8.0]),
    per_channel=st.booleans(),
    pair_limit=st.sampled_from([None, 128, 242, 2184]),
    rounding=st.sampled_from(["ceil", "nearest"]),
)


@given(rows=weight_rows(), spec=SPECS)
def test_exponent_is_that_of_the_step(rows: np.ndarray, spec: WeightSpec) -> None:
    found = exponents(rows, spec, no_floor(rows))
    square = (rows.astype(np.float64) ** 2).mean(axis=1)
    peak = np.abs(rows).max(axis=1).astype(np.float64)
    if not spec.per_channel:
        square, peak = np.full_like(square, square.mean()), np.full_like(peak, peak.max())
    for exponent, mean_square, largest in zip(found, square, peak, strict=True):
        step = 2 * min(spec.clip * math.sqrt(mean_square), largest) / (2**spec.bits - 1)
        if step == 0:
            assert exponent == weights.ZERO_EXPONENT
            continue
        # ceil(log2(step)) or round(log2(step)), with room for the last bit of the sums.
        least = 1.0 if spec.rounding == "ceil" else math.sqrt(0.5)
        assert 2.0 ** int(exponent) >= step * least * (1 - SUM)
        assert 2.0 ** int(exponent - 1) < step * least * (1 + SUM)


def test_exact_powers_of_two_are_not_raised() -> None:
    rows = np.full((1, 4), 255 / 2 * 0.25, np.float32)  # its step is 0.25
    assert exponents(rows, FREE, no_floor(rows)).tolist() == [-2]
    assert exponents(rows * np.float32(1.001), FREE, no_floor(rows)).tolist() == [-1]


@pytest.mark.parametrize("bits", range(2, 9))
def test_nearest_is_ceil_or_one_less(bits: int) -> None:
    rows = normal(200, 36)
    up, nearest = (
        exponents(rows, WeightSpec(bits=bits, clip=4.12, rounding=rounding), no_floor(rows))
        for rounding in ("ceil", "nearest")
    )
    assert set((up - nearest).tolist()) == {0, 1}


def test_the_floor_wins() -> None:
    rows = normal(3, 20)
    floor = np.array([-3, NO_FLOOR, 5])
    found = exponents(rows, FREE, floor)
    assert found[0] == -3
    assert found[1] < -8
    assert found[2] == 5
    one = exponents(rows, WeightSpec(per_channel=False), floor)
    assert one.tolist() == [5, 5, 5]


@given(rows=weight_rows(), spec=SPECS)
def test_pair_safe_always(rows: np.ndarray, spec: WeightSpec) -> None:
    codes, exponent = quantize_rows(rows, exponents(rows, spec, no_floor(rows)), spec)
    assert np.all(np.abs(codes) <= spec.qmax)
    np.testing.assert_array_equal(codes, np.round(codes))
    if not spec.per_channel:
        assert len(set(exponent.tolist())) == 1
    if spec.pair_limit is not None:
        even = codes[:, 0 : 2 * (codes.shape[1] // 2) : 2]
        odd = codes[:, 1::2]
        same_sign = even * odd > 0
        assert np.all((np.abs(even) + np.abs(odd))[same_sign] <= spec.pair_limit)
    # What evaluation and the file compute at the exponents that were chosen.
    np.testing.assert_array_equal(safe_codes(rows, exponent, spec), codes)


def test_outliers_beyond_the_clip_are_safe_too() -> None:
    """Two neighbours far beyond c sigma still saturate after their exponent is raised by one."""
    rows = np.full((1, 576), 0.01, np.float32)
    rows[0, :2] = 1.0
    exponent = exponents(rows, SAFE, no_floor(rows))
    assert round_rows(rows, exponent + 1, SAFE)[0, :2].tolist() == [127, 127]
    codes, _ = quantize_rows(rows, exponent, SAFE)
    assert codes[0, :2].tolist() == [64, 64]


@given(rows=weight_rows(), spec=SPECS)
@settings(max_examples=200)
def test_the_cheaper_of_two(rows: np.ndarray, spec: WeightSpec) -> None:
    start = exponents(rows, spec, no_floor(rows))
    codes, exponent = quantize_rows(rows, start, spec)

    def loss(candidate: np.ndarray, at: np.ndarray) -> np.ndarray:
        error = rows.astype(np.float64) - candidate * np.exp2(at.astype(np.float64))[:, None]
        each = (error**2).sum(axis=1)
        return each if spec.per_channel else np.full_like(each, each.sum())

    trimmed, raised = safe_codes(rows, start, spec), safe_codes(rows, start + 1, spec)
    untouched = np.all(round_rows(rows, start, spec) == trimmed, axis=1)
    if not spec.per_channel:
        untouched = np.full_like(untouched, untouched.all())
    for c in range(len(rows)):
        if untouched[c]:
            assert exponent[c] == start[c]
        else:
            best = min(loss(trimmed, start)[c], loss(raised, start + 1)[c])
            assert loss(codes, exponent)[c] == pytest.approx(best, rel=1e-12)


@given(rows=weight_rows(), spec=SPECS)
def test_numpy_equals_torch(rows: np.ndarray, spec: WeightSpec) -> None:
    floor = no_floor(rows)
    at = exponents(rows, spec, floor)
    tensor = torch.from_numpy(rows)
    at_torch = exponents(tensor, spec, torch.from_numpy(floor), torch)
    np.testing.assert_array_equal(at_torch.numpy(), at)
    codes, exponent = quantize_rows(rows, at, spec)
    codes_torch, exponent_torch = quantize_rows(tensor, at_torch, spec, torch)
    np.testing.assert_array_equal(exponent_torch.numpy(), exponent)
    np.testing.assert_array_equal(codes_torch.numpy(), codes)
    np.testing.assert_array_equal(safe_codes(tensor, exponent_torch, spec, torch).numpy(), codes)


@pytest.mark.parametrize("bits", [4, 8])
def test_numpy_equals_torch_on_many_weights(bits: int) -> None:
    rows = normal(64, 577)
    spec = WeightSpec(bits=bits, clip=weights.DEFAULT_CLIP[bits], pair_limit=128)
    codes, exponent = quantize_rows(rows, exponents(rows, spec, no_floor(rows)), spec)
    tensor = torch.from_numpy(rows)
    at = exponents(tensor, spec, torch.full((64,), NO_FLOOR), torch)
    codes_torch, exponent_torch = quantize_rows(tensor, at, spec, torch)
    np.testing.assert_array_equal(codes_torch.numpy(), codes)
    np.testing.assert_array_equal(exponent_torch.numpy(), exponent)


def test_zero_and_constant_channels() -> None:
    rows = np.zeros((2, 6), np.float32)
    rows[1] = -0.3
    codes, exponent = quantize_rows(rows, exponents(rows, SAFE, no_floor(rows)), SAFE)
    assert not codes[0].any()
    values = codes[1] * 2.0 ** int(exponent[1])
    np.testing.assert_allclose(values, -0.3, atol=2.0 ** int(exponent[1]))


def test_trim_takes_half_of_the_excess_off_each() -> None:
    codes = np.array([[127.0, 127, -127, -20, 100, -100, 127, 2, 50]])
    assert trim_pairs(codes, 128).tolist() == [[64, 64, -117, -11, 100, -100, 126, 2, 50]]
    assert weights.pair_excess(codes, 128).tolist() == [[126, 19, 0, 1]]


def test_pair_limits() -> None:
    """Two products with the largest code just fit int16."""
    assert weights.pair_limit(255) == 128
    for stored_max in range(1, 256):
        limit = weights.pair_limit(stored_max)
        assert limit * stored_max <= 2**15 - 1 < (limit + 1) * stored_max


@pytest.mark.parametrize("shape", [(4, 3, 3, 2), (4, 1, 5, 5), (2, 6, 1), (5, 2, 2, 3, 2)])
def test_rows_walk_channels_fastest(shape: tuple[int, ...]) -> None:
    weight = RNG.standard_normal(shape).astype(np.float32)
    rows = weights.as_rows(weight)
    assert rows.shape == (shape[0], math.prod(shape[1:]))
    np.testing.assert_array_equal(rows[:, : shape[1]], weight[(slice(None), slice(None), *([0] * (len(shape) - 2)))])
    np.testing.assert_array_equal(weights.from_rows(rows, shape), weight)
    tensor = weights.as_rows(torch.from_numpy(weight))
    np.testing.assert_array_equal(tensor.numpy(), rows)
    np.testing.assert_array_equal(weights.from_rows(tensor, shape).numpy(), weight)
