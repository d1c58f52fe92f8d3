"""A part that is held out: nothing is in both, everything keeps its label, and the seed alone says which."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.data import Augment, open_data
from qpipe.data.subset import Subset, hold_out
from qpipe.errors import DataError


def _images(count: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (count, 6, 5, 3), dtype=np.uint8)
    return images, np.arange(count)


@given(count=st.integers(2, 40), part=st.floats(0.01, 0.5), seed=st.integers(0, 3), epoch=st.integers(0, 2))
def test_both_parts_are_the_whole(count: int, part: float, seed: int, epoch: int) -> None:
    images, labels = _images(count)
    source = open_data((images, labels))
    if round(part * count) == 0:
        with pytest.raises(
            DataError, match=rf"^hold_out: .* of {count} samples are 0, expected some, and some others$"
        ):
            hold_out(source, part, seed)
        return
    rest, held = hold_out(source, part, seed)
    assert len(held) == round(part * count)
    assert sorted([*rest.labels, *held.labels]) == list(range(count))
    for each in (rest, held):
        for batch in each.batches(7, shuffle=True, seed=seed, epoch=epoch):
            np.testing.assert_array_equal(batch.pixels, images[batch.labels])
        found = [int(label) for batch in each.batches(7, shuffle=True, epoch=epoch) for label in batch.labels]
        assert sorted(found) == each.labels.tolist()
    again = hold_out(source, part, seed)
    assert again[1].labels.tolist() == held.labels.tolist()


def test_a_sample_is_augmented_as_among_all() -> None:
    source = open_data(_images(20))
    options = {"seed": 3, "epoch": 2, "augment": Augment(pad=2)}
    (whole,) = source.batches(20, **options)
    (some,) = Subset(source, np.array([4, 9, 17])).batches(20, **options)
    np.testing.assert_array_equal(some.pixels, whole.pixels[[4, 9, 17]])


def test_seeds_hold_out_others() -> None:
    source = open_data(_images(40))
    assert len({tuple(hold_out(source, 0.25, seed)[1].labels) for seed in range(5)}) == 5


def test_a_stream_has_no_part() -> None:
    images, labels = _images(4)
    with pytest.raises(DataError, match=r"^hold_out: .* is a stream, expected data whose samples are known$"):
        hold_out(open_data(iter([(images, labels)])), 0.5, 0)
