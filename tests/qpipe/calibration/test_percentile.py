import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.calibration.percentile import RunningPercentile, rank_from_top

PERCENTILES = st.sampled_from([50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 100.0, 33.3])


def expected(batches: list[np.ndarray], percentile: float, magnitude: bool) -> float:
    """By sorting; numpy's own percentile takes 99.9 of 3,000 values, whose rank is whole, one too far."""
    ordered = (np.sort(np.abs(b) if magnitude else b) for b in batches)
    return max(0.0, *(float(b[max(math.ceil(b.size * Fraction(str(percentile)) / 100), 1) - 1]) for b in ordered))


def observed(batches: list[np.ndarray], percentile: float, magnitude: bool, cuts: list[int]) -> RunningPercentile:
    running = RunningPercentile(percentile, magnitude=magnitude)
    for batch in batches:
        running.begin(batch.size)
        for piece in np.split(batch, sorted(min(cut, batch.size) for cut in cuts)):
            running.update(piece)
        running.end()
    return running


@st.composite
def float_batches(draw: st.DrawFn) -> list[np.ndarray]:
    """Few different values (ties, zeros) or many."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    coarse, shift = draw(st.booleans()), draw(st.sampled_from([-3.0, 0.0, 0.5]))
    batches = []
    for _ in range(draw(st.integers(1, 4))):
        values = rng.standard_normal(draw(st.integers(1, 3000))) + shift
        batches.append((np.round(values) if coarse else values).astype(np.float32))
    return batches


@given(
    batches=float_batches(), percentile=PERCENTILES, magnitude=st.booleans(),
    cuts=st.lists(st.integers(0, 3000), max_size=9),
)  # fmt: skip
def test_exact_in_any_pieces(batches: list[np.ndarray], percentile: float, magnitude: bool, cuts: list[int]) -> None:
    running = observed(batches, percentile, magnitude, cuts)
    assert running.value == expected(batches, percentile, magnitude)
    if magnitude:
        assert running.saw_negative == any(bool((b < 0).any()) for b in batches)


@given(batches=float_batches(), percentile=PERCENTILES, magnitude=st.booleans(), split=st.integers(0, 4))
def test_workers_merge_by_maximum(batches: list[np.ndarray], percentile: float, magnitude: bool, split: int) -> None:
    parts = [observed(part, percentile, magnitude, []) for part in (batches[:split], batches[split:])]
    assert max(part.value for part in parts) == expected(batches, percentile, magnitude)


def test_zeros_and_negative_values() -> None:
    zeros = [np.zeros(100, np.float32)]
    assert observed(zeros, 99.0, False, [50]).value == 0
    assert observed(zeros, 99.0, True, [50]).value == 0
    assert observed([-np.ones(100, np.float32)], 99.0, False, []).value == 0
    assert observed([-np.ones(100, np.float32)], 99.0, True, []).value == 1


@given(st.integers(1, 10**7), st.integers(1, 10**5))
def test_rank(count: int, thousandths: int) -> None:
    """Against whole numbers: the percentile is the smallest value that p / 100 of all do not exceed."""
    percentile = thousandths / 1000
    position = max(-(-count * thousandths // 100_000), 1)
    assert rank_from_top(count, percentile) == count - position + 1


def test_memory_is_a_few_ranks() -> None:
    running = RunningPercentile(99.99)
    count = 2**20
    running.begin(count)
    values = np.sort(np.random.default_rng(0).random(count).astype(np.float32))  # ascending: every value is a candidate
    held = []
    for piece in np.split(values, 64):
        running.update(piece)
        held.append(running._held)
    running.end()
    assert max(held) <= 5 * rank_from_top(count, 99.99)
    assert running.value == np.percentile(values, 99.99, method="inverted_cdf")
    assert running.value == pytest.approx(0.9999, abs=1e-3)
