import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.data import Augment
from qpipe.errors import DataError


@given(
    count=st.integers(1, 5),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    channels=st.integers(1, 4),
    pad=st.integers(0, 3),
    seed=st.integers(0, 9),
)
def test_equals_the_plain_loop(count: int, height: int, width: int, channels: int, pad: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(1, 256, (count, height, width, channels), dtype=np.uint8)
    plan = Augment(pad=pad).plan(count + 3, seed=seed, epoch=1)
    indices = np.random.default_rng(seed).permutation(count + 3)[:count]
    before = pixels.copy()
    result = plan(pixels, indices)
    for position, index in enumerate(indices):
        padded = np.pad(pixels[position], ((pad, pad), (pad, pad), (0, 0)))
        top, left = plan.tops[index], plan.lefts[index]
        crop = padded[top : top + height, left : left + width]
        np.testing.assert_array_equal(result[position], crop[:, ::-1] if plan.flips[index] else crop)
    np.testing.assert_array_equal(pixels, before)


def test_draws_cover_all_offsets_and_flip_half() -> None:
    plan = Augment(pad=4).plan(10_000, seed=0, epoch=0)
    assert set(plan.tops.tolist()) == set(plan.lefts.tolist()) == set(range(9))
    # 5 standard deviations of a fair coin thrown 10,000 times
    assert abs(plan.flips.mean() - 0.5) < 0.025


def test_draws_depend_on_seed_and_epoch() -> None:
    first, again, epoch, seed = (
        Augment().plan(50, seed=s, epoch=e).tops.tolist() for s, e in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert first == again
    assert first != epoch
    assert first != seed


def test_without_pad_and_flip_nothing_changes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    plan = Augment(pad=0, flip=False).plan(6, seed=3, epoch=0)
    np.testing.assert_array_equal(plan(pixels, np.arange(6)), pixels)


def test_negative_pad_is_refused() -> None:
    with pytest.raises(DataError, match="pad is -1, expected at least 0"):
        Augment(pad=-1)
