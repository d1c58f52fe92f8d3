"""The ratio by which a channel's weights fill their grid."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.arith.multiplier import NO_FLOOR, shift_bound, split
from qpipe.arith.power_of_two import Rounding
from qpipe.arith.rescale import HEADROOM
from qpipe.arith.spec import QuantSpec
from qpipe.arith.weights import pair_sums
from qpipe.formats.base import WeightOptions
from qpipe.formats.fixed_point import DEFAULT_CLIP, FixedPoint

ROUNDING = 1e-9  # float64's, over the few operations of a ratio
SOURCE = QuantSpec.unsigned(8, -6)
FLOAT32 = 2e-6  # of weights that are stored


@st.composite
def channels(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, FixedPoint, QuantSpec]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count, size = draw(st.integers(1, 12)), draw(st.integers(1, 40))
    rows = (rng.standard_normal((count, size)) * np.exp2(rng.integers(-8, 3, (count, 1)))).astype(np.float32)
    k = rng.standard_normal(count) * np.exp2(rng.integers(-6, 3, count))
    spec = FixedPoint(bits=draw(st.sampled_from([2, 4, 8])), pair_limit=draw(st.sampled_from([None, 128])))
    output = QuantSpec.for_range(8, draw(st.integers(-3, 5)), signed=draw(st.booleans()))
    return rows, k, spec, output


@given(channels())
def test_weights_fit_their_grid_and_the_multiplier_is_exact(case: tuple) -> None:
    rows, k, spec, output = case
    l = spec.exponents(rows, np.full(len(rows), NO_FLOOR))  # noqa: E741
    ratio = spec.filling_ratio(rows, k, l, SOURCE, output)
    codes_per_weight = ratio / np.exp2(l)
    limit = HEADROOM * (spec.qmax + 0.5) * (1 + ROUNDING)
    assert np.all(spec.clip_at(rows) * codes_per_weight <= limit)
    if spec.pair_limit is not None:
        clip = np.asarray(spec.clip_at(rows), np.float64)[:, None]
        sums = pair_sums(np.clip(rows, -clip, clip)).max(axis=1, initial=0) * codes_per_weight
        assert np.all(sums <= HEADROOM * (spec.pair_limit - 1) * (1 + ROUNDING))
    multiplier, exponent = split(k / ratio)
    assert np.ldexp(multiplier, exponent) == pytest.approx(np.abs(k / ratio), rel=ROUNDING)
    whole = multiplier.astype(np.int64)
    trailing_zeros = np.log2(whole & -whole)
    shift = output.exponent + 6 - l - exponent - trailing_zeros
    assert np.all(shift <= shift_bound(output))


@given(channels())
def test_rescaled_weights_need_no_repair(case: tuple) -> None:
    rows, k, spec, output = case
    l = spec.exponents(rows, np.full(len(rows), NO_FLOOR))  # noqa: E741
    ratio = spec.filling_ratio(rows, k, l, SOURCE, output)
    scaled = (rows * ratio[:, None]).astype(np.float32)
    codes, unchanged = spec.pair_safe(scaled, l)
    assert np.array_equal(unchanged, l)
    error = np.abs(codes * np.exp2(l)[:, None] - np.clip(scaled, -spec.qmax * np.exp2(l)[:, None], None))
    clip = np.asarray(spec.clip_at(scaled))[:, None]
    assert np.all(error[np.abs(scaled) <= np.broadcast_to(clip, scaled.shape)] <= np.exp2(l).max())


def test_a_channel_fills_its_grid() -> None:
    """One weight in the lower part of its octave comes to lie at the headroom, up to the multiplier's 8 bits."""
    rows, spec = np.array([[0.52, 0.1, -0.2]], np.float32), FixedPoint(bits=8)
    ratio = spec.filling_ratio(rows, np.ones(1), np.array([-7]), SOURCE, QuantSpec.unsigned(8, -6))
    assert 0.99 * HEADROOM * 127.5 <= 0.52 * ratio[0] * 128 <= HEADROOM * 127.5


@pytest.mark.parametrize("bits", range(2, 8))
@pytest.mark.parametrize("rounding", ["ceil", "nearest"])
def test_room_to_grow(bits: int, rounding: Rounding) -> None:
    """The step comes to lie just below its power of two: 3 percent of growth with ceil, over 41 with nearest."""
    rng = np.random.default_rng(bits)
    rows = (rng.standard_normal((200, 72)) * np.exp2(rng.uniform(-3, 2, (200, 1)))).astype(np.float32)
    spec = FixedPoint(bits=bits, clip=DEFAULT_CLIP[bits], pair_limit=128, rounding=rounding)
    l = spec.exponents(rows, np.full(200, NO_FLOOR))  # noqa: E741
    ratio = spec.filling_ratio(rows, np.ones(200), l, SOURCE, QuantSpec.unsigned(8, -6))
    scaled = (rows * ratio[:, None]).astype(np.float32)
    step = np.asarray(spec.clip_at(scaled)) * 2 / (2**bits - 1) / np.exp2(l)
    assert np.all((step >= HEADROOM * (1 - 2**-7) - FLOAT32) & (step <= HEADROOM + FLOAT32))
    growth = np.float32(1.02 if rounding == "ceil" else 1.41)
    assert np.array_equal(spec.exponents(scaled * growth, np.full(200, NO_FLOOR)), l)


def test_where_pairs_bind_nearest_keeps_the_exponent() -> None:
    """At 8 bits a pair of two largest weights asks for half of the range, which the nearest power would take away."""
    rows = np.random.default_rng(0).standard_normal((50, 72)).astype(np.float32)
    rows[:, :2] = 4.0
    spec = FixedPoint(bits=8, pair_limit=128, rounding="nearest")
    l = spec.exponents(rows, np.full(50, NO_FLOOR))  # noqa: E741
    ratio = spec.filling_ratio(rows, np.ones(50), l, SOURCE, QuantSpec.unsigned(8, -6))
    scaled = (rows * ratio[:, None]).astype(np.float32)
    assert np.array_equal(spec.exponents(scaled, np.full(50, NO_FLOOR)), l)


def test_zero_channels_stay() -> None:
    rows, k = np.array([[0.0, 0.0], [0.5, 0.25]], np.float32), np.array([1.0, 0.0])
    ratio = FixedPoint().filling_ratio(rows, k, np.array([-7, -8]), SOURCE, QuantSpec.unsigned(8, -6))
    assert ratio.tolist() == [1.0, 1.0]


@given(
    bits=st.sampled_from([2, 4, 8]),
    power=st.integers(-6, 6),
    k=st.integers(-5, 5),
    at=st.integers(0, 8),
    limit=st.sampled_from([None, 128]),
)
def test_a_weight_that_passes_a_channel_on_stays_a_power_of_two(
    bits: int, power: int, k: int, at: int, limit: int | None
) -> None:
    """So does its multiplier: the codes that it reads are those that it writes."""
    rows = np.zeros((1, 9), np.float32)
    rows[0, at] = 2.0**power
    # Float32 doesn't hold k as it was meant.
    factor = np.array([np.float32(np.sqrt(1.1)) / np.float64(np.float32(np.sqrt(1.1 * 4.0**-k)))])
    spec = FixedPoint.of(bits, WeightOptions(pair_limit=limit))
    output = QuantSpec.unsigned(8, 0)
    ratio = spec.filling_ratio(rows, factor, spec.exponents(rows, np.array([NO_FLOOR])), SOURCE, output)
    assert ratio is not None
    scaled = (rows * ratio[:, None]).astype(np.float32)
    codes, _ = spec.pair_safe(scaled, spec.exponents(scaled, np.array([NO_FLOOR])))
    code = abs(float(codes[0, at]))
    assert np.frexp(code)[0] == 0.5
    # As much of the grid as a power of two can fill, or half of that.
    assert code >= (spec.qmax + 1) / 4
    assert np.count_nonzero(codes) == 1
    multiplier, _ = split(factor / ratio)
    assert np.frexp(float(multiplier[0]))[0] == 0.5
