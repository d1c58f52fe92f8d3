"""The error that is expected of other samples: rounding of those that were seen, and what larger ones lose."""

import numpy as np
import pytest

from qpipe.arith.spec import QuantSpec
from qpipe.calibration.expected_error import COHERENT, expected_errors
from qpipe.calibration.samples import Sample

DRAWN = 0.02
"""Of an error: the same values in another order of sums, and the few of them that rounding is measured on."""
STEPS = 0.1
"""Of rounding's error: that of evenly spread values is `step**2 / 12`."""


def sample_of(values: np.ndarray) -> Sample:
    return Sample(values.size, float(values.min()), float(values.max()), [values], [values[:0]])


@pytest.fixture
def uniform() -> Sample:
    """From -1 to 1."""
    return sample_of(np.random.default_rng(0).uniform(-1, 1, 2**13).astype(np.float32))


def grids(*tops: int) -> list[QuantSpec]:
    return [QuantSpec.signed(8, top - 7) for top in tops]


def test_samples_like_those_seen_lose_by_rounding_alone(uniform: Sample) -> None:
    found = expected_errors(uniform, grids(0, 1, 2), spread=0.0)
    power = float(np.square(uniform.within).mean())
    np.testing.assert_allclose(found * power, [4.0**top / 2**14 / 12 for top in (0, 1, 2)], rtol=STEPS)


def test_larger_samples_are_cut_off_where_a_grid_ends_with_those_seen(uniform: Sample) -> None:
    plain, wide = (expected_errors(uniform, grids(0, 1), spread=spread) for spread in (0.0, 0.3))
    assert wide[0] > 10 * plain[0]
    assert wide[1] < wide[0]
    # One that no sample leaves has its rounding alone.
    assert expected_errors(uniform, grids(3), spread=0.3) == expected_errors(uniform, grids(3), spread=0.0)


def test_what_is_cut_off_counts_as_it_is_squared(uniform: Sample) -> None:
    (found,) = expected_errors(uniform, grids(-1), spread=0.0)
    x, end = uniform.within.astype(np.float64), 127.5 / 256
    lost = COHERENT * np.square(np.maximum(np.abs(x) - end, 0)).sum() / np.square(x).sum()
    assert found == pytest.approx(lost, rel=DRAWN)


def test_a_bound_ends_every_sample(uniform: Sample) -> None:
    inside = sample_of(uniform.within * np.float32(0.98))
    bounded = expected_errors(inside, grids(0), spread=0.3, limit=0.99)
    assert bounded == expected_errors(inside, grids(0), spread=0.0) < expected_errors(inside, grids(0), spread=0.3)


def test_a_factor_is_another_unit(uniform: Sample) -> None:
    other = sample_of(uniform.within / np.float32(1.25))
    found, expected = (
        expected_errors(x, grids(0, 1), spread=0.2, factor=factor) for x, factor in ((uniform, 1.25), (other, 1.0))
    )
    np.testing.assert_allclose(found, expected, rtol=DRAWN)


def test_either_end_of_a_range_beside_the_middle_cuts() -> None:
    x = np.linspace(-6, 1, 2**12, dtype=np.float32)
    around = [QuantSpec.around(-5, 222), QuantSpec.around(-5, 128), QuantSpec.around(-5, 34)]
    fits, half, wrong = expected_errors(sample_of(x), around, spread=0.0)
    assert fits < half < wrong


def test_what_a_function_makes_equal_is_no_error() -> None:
    x = np.linspace(-8, 1, 2**12, dtype=np.float32)
    cut = [QuantSpec.around(-6, 128)]
    (as_it_is,) = expected_errors(sample_of(x), cut, spread=0.0)
    (behind,) = expected_errors(sample_of(x), cut, spread=0.0, function=lambda y: np.maximum(y, -1))
    assert behind < 1e-3 * as_it_is
