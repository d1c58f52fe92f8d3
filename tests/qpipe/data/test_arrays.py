from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.data import Augment, Batch, Portion, Preprocess, open_data
from qpipe.errors import DataError


class Stream:
    """Batches of the sizes given, which starts anew every time; `taken` counts what was read in all."""

    def __init__(self, sizes: list[int], *, pixels: bool = False) -> None:
        self.sizes, self.pixels, self.taken = sizes, pixels, 0

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        begin = 0
        for size in self.sizes:
            labels = np.arange(begin, begin + size)
            values = np.broadcast_to(labels[:, None, None, None], (size, 3, 3, 3))
            self.taken += 1
            yield values.astype(np.uint8 if self.pixels else np.float32), labels
            begin += size


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    size=st.integers(1, 12),
    limit=st.none() | st.integers(1, 60),
    pixels=st.booleans(),
    once=st.booleans(),
    drop_last=st.booleans(),
)
def test_a_stream_is_cut_anew(
    sizes: list[int], size: int, limit: int | None, pixels: bool, once: bool, drop_last: bool
) -> None:
    stream = Stream(sizes, pixels=pixels)
    source = open_data(iter(stream) if once else stream, preprocess=Preprocess(pixel_max=255))
    batches = list(source.batches(size, limit=limit, drop_last=drop_last))
    samples = min(limit or 99, sum(sizes))
    kept = samples // size * size if drop_last else samples
    assert [len(batch) for batch in batches] == [size] * (kept // size) + [kept % size] * (kept % size > 0)
    assert [int(label) for batch in batches for label in batch.labels] == list(range(kept))
    for batch in batches:
        np.testing.assert_array_equal(batch.inputs[:, 0, 0, 0], batch.labels)
        assert (batch.pixels is not None) == pixels


def test_a_stream_is_read_no_further_than_needed() -> None:
    stream = Stream([4] * 50)
    source = open_data(iter(stream))
    assert stream.taken == 0 or stream.taken == 1
    assert sum(len(batch) for batch in source.batches(5, limit=10)) == 10
    assert stream.taken == 3


def test_an_iterator_can_be_used_once() -> None:
    source = open_data(iter(Stream([4])), "test")
    list(source.batches(2))
    with pytest.raises(DataError, match="the iterator is used up; give a list, or an object that starts anew"):
        next(source.batches(2))


def test_a_stream_has_no_length() -> None:
    source = open_data(Stream([4, 3]))
    assert source.size is None
    assert source.labels is None
    assert source.n_batches(2) is None
    assert source.image_shape == (3, 3, 3)
    with pytest.raises(DataError, match="come as a stream, whose number of samples is not known before its end"):
        len(source)


def test_batches_of_a_stream_are_left_out_but_not_shared() -> None:
    source = open_data(Stream([4, 3], pixels=True))
    options = {"augment": Augment(pad=1)}
    whole, rest = (list(source.batches(2, portion=Portion(skip=skip), **options)) for skip in (0, 2))
    assert [batch.labels.tolist() for batch in rest] == [[4, 5], [6]]
    for expected, found in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(found.pixels, expected.pixels)
    with pytest.raises(DataError, match="come as a stream, which several processes can't share: give arrays"):
        next(source.batches(2, portion=Portion(1, 2)))


def test_a_stream_of_images_is_augmented_by_seed_and_epoch() -> None:
    source = open_data(Stream([40], pixels=True))
    first, again, other = (next(source.batches(40, augment=Augment(pad=1), epoch=epoch)).pixels for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    with pytest.raises(DataError, match="augmentation needs uint8 images"):
        next(open_data(Stream([4])).batches(2, augment=Augment()))


def test_a_stream_of_images_is_resized() -> None:
    images = [np.zeros((2, 12, 10, 3), np.uint8)]
    source = open_data(iter(images), preprocess=Preprocess(resize=5, crop=4))
    assert source.image_shape == (3, 4, 4)


def test_batches_are_accepted_as_items() -> None:
    inputs = np.ones((2, 1, 3, 3), np.float32)
    (batch,) = open_data(iter([Batch(inputs, np.array([1, 0]))])).batches(9)
    np.testing.assert_array_equal(batch.inputs, inputs)
    assert batch.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([np.zeros((1, 3, 4, 4)), np.full((1, 3, 4, 4), np.nan)], "sample 0 has the value nan at"),
        ([np.zeros((1, 3, 4, 4)), np.zeros((1, 3, 5, 4))], r"item 1 has inputs of shape \[3, 5, 4\], .* \[3, 4, 4\]$"),
        ([(np.zeros((1, 3, 4, 4)), [0]), np.zeros((1, 3, 4, 4))], "item 1 has labels: False, the first one True$"),
        ([np.zeros((1, 3, 4, 4)), (np.zeros((1, 3, 4, 4)), [np.nan])], "label 0 is nan, expected finite"),
        ([np.zeros((1, 3, 4, 4)), "abc"], "expected arrays of numbers, found str"),
        ([np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 4, 4), np.uint8)], r"images have shape \[1, 4, 4\]"),
    ],
)
def test_bad_items_of_a_stream(items: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(open_data(iter(items)).batches(2))
