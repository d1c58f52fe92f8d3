"""Power-of-two weight scales, pair-safe, by definition, in numpy and in torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qpipe.arith.spec import QuantSpec
from qpipe.arith.weights import NO_FLOOR, ZERO_EXPONENT
from qpipe.formats.base import Around, WeightOptions, exponent_floor
from qpipe.formats.fixed_point import DEFAULT_CLIP, FixedPoint

FREE = FixedPoint(bits=8, clip=8.0)
SAFE = FixedPoint(bits=8, clip=8.0, pair_limit=128)
SUM = 1e-12  # float64 sums of a dozen squares, in another order


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
    FixedPoint,
    bits=st.integers(2, 8),
    clip=st.sampled_from([2.0, 4.12, 8.0]),
    per_channel=st.booleans(),
    pair_limit=st.sampled_from([None, 128, 242, 2184]),
    rounding=st.sampled_from(["ceil", "nearest"]),
)


@given(rows=weight_rows(), spec=SPECS)
def test_exponent_is_that_of_the_step(rows: np.ndarray, spec: FixedPoint) -> None:
    found = spec.exponents(rows, no_floor(rows))
    square = (rows.astype(np.float64) ** 2).mean(axis=1)
    peak = np.abs(rows).max(axis=1).astype(np.float64)
    if not spec.per_channel:
        square, peak = np.full_like(square, square.mean()), np.full_like(peak, peak.max())
    alone = (np.count_nonzero(rows, axis=1) == 1) & spec.per_channel
    for exponent, mean_square, largest, is_alone in zip(found, square, peak, alone, strict=True):
        step = 2 * min(spec.clip * math.sqrt(mean_square), largest) / (2**spec.bits - 1)
        if step == 0:
            assert exponent == ZERO_EXPONENT
            continue
        # ceil(log2(step)) or round(log2(step)), with room for the last bit of the sums.
        least = 1.0 if spec.rounding == "ceil" or is_alone else math.sqrt(0.5)
        assert 2.0 ** int(exponent) >= step * least * (1 - SUM)
        assert 2.0 ** int(exponent - 1) < step * least * (1 + SUM)


def test_exact_powers_of_two_are_not_raised() -> None:
    rows = np.full((1, 4), 255 / 2 * 0.25, np.float32)  # its step is 0.25
    assert FREE.exponents(rows, no_floor(rows)).tolist() == [-2]
    assert FREE.exponents(rows * np.float32(1.001), no_floor(rows)).tolist() == [-1]


@pytest.mark.parametrize("bits", range(2, 9))
def test_nearest_is_ceil_or_one_less(bits: int) -> None:
    rows = normal(200, 36)
    up, nearest = (
        FixedPoint(bits=bits, clip=4.12, rounding=rounding).exponents(rows, no_floor(rows))
        for rounding in ("ceil", "nearest")
    )
    assert set((up - nearest).tolist()) == {0, 1}


def dirac(size: float = 1.0) -> np.ndarray:
    """A kernel that is one large tap and 575 small ones: its deviation is a 24th of the tap."""
    rows = normal(1, 576, scale=1e-3)
    rows[0, 200] = 1.0
    return rows * np.float32(size)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("per_channel", [True, False])
def test_one_large_tap_is_not_cut_off(bits: int, per_channel: bool) -> None:
    """Eight deviations would hold a third of it; its code times its step is within one step of it."""
    spec = FixedPoint(bits, per_channel=per_channel)
    rows = dirac()
    codes, exponent = spec.pair_safe(rows, spec.exponents(rows, no_floor(rows)))
    step = 2.0 ** int(exponent[0])
    assert abs(codes[0, 200] * step - 1) <= step
    tensor = torch.from_numpy(rows)
    assert spec.exponents(tensor, torch.full((1,), NO_FLOOR)).tolist() == exponent.tolist()


def test_a_clip_that_is_given_holds() -> None:
    assert FixedPoint(8, 8.0).clip_at(dirac()) == pytest.approx(8 / 24, rel=0.01)
    assert FixedPoint(8).clip_at(dirac()) == 1


def test_at_8_bits_the_clip_is_the_largest_weight() -> None:
    rows = normal(1, 576, scale=1.0)
    rows[0, 7] = 8.6  # a little more than 8 deviations
    assert FixedPoint(8).clip_at(rows) == rows[0, 7]
    assert FixedPoint(8, 8.0).clip_at(rows) < rows[0, 7]


@pytest.mark.parametrize("bits", range(2, 8))
def test_weights_shaped_like_a_bell_are_clipped_at_their_deviation(bits: int) -> None:
    """A channel of 5,000 has weights beyond 3 deviations, and a few beyond 4: what they lose is less than a step's."""
    rows = normal(40, 5000)
    np.testing.assert_array_equal(FixedPoint(bits).clip_at(rows), FixedPoint(bits, DEFAULT_CLIP[bits]).clip_at(rows))


@given(rows=weight_rows(), bits=st.integers(2, 8), power=st.integers(-60, 60))
def test_codes_do_not_depend_on_the_unit(rows: np.ndarray, bits: int, power: int) -> None:
    """Squares of 1e-30 and 1e30 would leave float32."""
    spec = FixedPoint(bits, pair_limit=128)
    scaled = rows * np.float32(2.0**power)
    codes, exponent = spec.pair_safe(rows, spec.exponents(rows, no_floor(rows)))
    again, moved = spec.pair_safe(scaled, spec.exponents(scaled, no_floor(rows)))
    # Down there weights lose bits, and exponents end.
    assume((np.minimum(exponent, moved)[rows.any(axis=1)] > NO_FLOOR + 8).all())
    np.testing.assert_array_equal(again, codes)
    np.testing.assert_array_equal(moved[rows.any(axis=1)], exponent[rows.any(axis=1)] + power)


@pytest.mark.parametrize("bits", range(2, 8))
@pytest.mark.parametrize("power", [-100, 70])
def test_the_deviation_of_tiny_and_huge_weights(bits: int, power: int) -> None:
    rows, spec = normal(4, 500), FixedPoint(bits, clip=2.0)
    clip = spec.clip_at(rows)
    assert (clip < abs(rows).max(axis=1)).all(), "it is the deviation that clips"
    np.testing.assert_array_equal(spec.clip_at(rows * np.float32(2.0**power)), clip * 2.0**power)


def test_the_floor_wins() -> None:
    rows = normal(3, 20)
    floor = np.array([-3, NO_FLOOR, 5])
    found = FREE.exponents(rows, floor)
    assert found[0] == -3
    assert found[1] < -8
    assert found[2] == 5
    one = FixedPoint(per_channel=False).exponents(rows, floor)
    assert one.tolist() == [5, 5, 5]


@given(rows=weight_rows(), spec=SPECS)
def test_pair_safe_always(rows: np.ndarray, spec: FixedPoint) -> None:
    codes, exponent = spec.pair_safe(rows, spec.exponents(rows, no_floor(rows)))
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
    np.testing.assert_array_equal(spec.codes_at(rows, exponent), codes)


def test_outliers_beyond_the_clip_are_safe_too() -> None:
    """Two neighbours far beyond c sigma still saturate after their exponent is raised by one."""
    rows = np.full((1, 576), 0.01, np.float32)
    rows[0, :2] = 1.0
    exponent = SAFE.exponents(rows, no_floor(rows))
    assert SAFE.stored_codes(rows, exponent + 1)[0, :2].tolist() == [127, 127]
    codes, _ = SAFE.pair_safe(rows, exponent)
    assert codes[0, :2].tolist() == [64, 64]


@given(rows=weight_rows(), spec=SPECS)
@settings(max_examples=200)
def test_the_cheaper_of_two(rows: np.ndarray, spec: FixedPoint) -> None:
    start = spec.exponents(rows, no_floor(rows))
    codes, exponent = spec.pair_safe(rows, start)

    def loss(candidate: np.ndarray, at: np.ndarray) -> np.ndarray:
        error = rows.astype(np.float64) - candidate * np.exp2(at.astype(np.float64))[:, None]
        each = (error**2).sum(axis=1)
        return each if spec.per_channel else np.full_like(each, each.sum())

    trimmed, raised = spec.codes_at(rows, start), spec.codes_at(rows, start + 1)
    untouched = np.all(spec.stored_codes(rows, start) == trimmed, axis=1)
    if not spec.per_channel:
        untouched = np.full_like(untouched, untouched.all())
    for c in range(len(rows)):
        if untouched[c]:
            assert exponent[c] == start[c]
        else:
            best = min(loss(trimmed, start)[c], loss(raised, start + 1)[c])
            assert loss(codes, exponent)[c] == pytest.approx(best, rel=1e-12)


@given(rows=weight_rows(), spec=SPECS)
def test_numpy_equals_torch(rows: np.ndarray, spec: FixedPoint) -> None:
    floor = no_floor(rows)
    at = spec.exponents(rows, floor)
    tensor = torch.from_numpy(rows)
    at_torch = spec.exponents(tensor, torch.from_numpy(floor))
    np.testing.assert_array_equal(at_torch.numpy(), at)
    codes, exponent = spec.pair_safe(rows, at)
    codes_torch, exponent_torch = spec.pair_safe(tensor, at_torch)
    np.testing.assert_array_equal(exponent_torch.numpy(), exponent)
    np.testing.assert_array_equal(codes_torch.numpy(), codes)
    np.testing.assert_array_equal(spec.codes_at(tensor, exponent_torch).numpy(), codes)


@pytest.mark.parametrize("bits", [4, 8])
def test_numpy_equals_torch_on_many_weights(bits: int) -> None:
    rows = normal(64, 577)
    spec = FixedPoint(bits=bits, clip=DEFAULT_CLIP[bits], pair_limit=128)
    codes, exponent = spec.pair_safe(rows, spec.exponents(rows, no_floor(rows)))
    tensor = torch.from_numpy(rows)
    at = spec.exponents(tensor, torch.full((64,), NO_FLOOR))
    codes_torch, exponent_torch = spec.pair_safe(tensor, at)
    np.testing.assert_array_equal(codes_torch.numpy(), codes)
    np.testing.assert_array_equal(exponent_torch.numpy(), exponent)


def test_zero_and_constant_channels() -> None:
    rows = np.zeros((2, 6), np.float32)
    rows[1] = -0.3
    codes, exponent = SAFE.pair_safe(rows, SAFE.exponents(rows, no_floor(rows)))
    assert not codes[0].any()
    values = codes[1] * 2.0 ** int(exponent[1])
    np.testing.assert_allclose(values, -0.3, atol=2.0 ** int(exponent[1]))


@pytest.mark.parametrize(("around", "exponent"), [(0.999, 0), (1.001, 1)])
def test_the_clip_of_4_bits_is_the_papers(around: float, exponent: int) -> None:
    """FAQ, footnote 4: "a constant of 4.12 for all our 4-bit experiments"; the step is 2 * 4.12 sigma / 15."""
    sigma = 15 / (2 * 4.12) * around
    rows = np.full((1, 100), math.sqrt(75 / 99) * sigma, np.float32)
    rows[0, 0] = 5 * sigma  # one weight in a hundred has five standard deviations, and is clipped
    spec = FixedPoint.of(4, WeightOptions(rounding="ceil"))
    assert spec.exponents(rows, no_floor(rows)).tolist() == [exponent]


@given(rows=weight_rows(), spec=SPECS, data=st.data())
def test_training_goes_on_from_the_exponents_of_the_file(
    rows: np.ndarray, spec: FixedPoint, data: st.DataObject
) -> None:
    """Whatever chose them; and as the weights move, they stay as far above what the rule says."""
    one, source = np.ones(len(rows)), QuantSpec(-4, 0, 255)
    apart = data.draw(arrays(np.int64, len(rows) if spec.per_channel else 1, elements=st.integers(-2, 3)))
    floor = exponent_floor(rows, Around(one, 0 * one, source, None))
    exponent = np.maximum(spec.exponents(rows, floor) + apart, floor)
    stored = spec.storable(rows, exponent)
    assume(np.abs(stored).max(axis=1).all())
    for kind in (np.asarray, torch.from_numpy):
        weights, at, k, beta = map(kind, (stored, exponent, one, 0 * one))
        around = Around(k, beta, source, None)
        raised = spec.raised(weights, at, around)
        codes, found = spec.quantize(weights, around, raised=raised)
        np.testing.assert_array_equal(found, exponent)
        np.testing.assert_array_equal(codes, spec.codes_at(stored, exponent))
        _, doubled = spec.quantize(weights * 2, around, raised=raised)
        assert (np.asarray(doubled) >= exponent).all()
    if spec.exponents(stored, floor).tolist() == exponent.tolist():
        assert raised is None
