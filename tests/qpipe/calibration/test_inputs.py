from collections.abc import Iterator

import numpy as np

from qpipe.calibration.inputs import CalibrationInputs
from qpipe.data import Augment, Preprocess, open_data

IMAGES = np.random.default_rng(0).normal(size=(40, 1, 8, 8)).astype(np.float32)


def inputs_of(data: object, **arguments: int) -> CalibrationInputs:
    given = {"batches": 2, "batch_size": 8, "seed": 0, **arguments}
    return CalibrationInputs(open_data(data, "train", Preprocess()), **given)  # type: ignore[arg-type]


def test_every_pass_sees_the_same_batches() -> None:
    inputs = inputs_of(IMAGES)
    first, second = list(inputs), list(inputs)
    assert [batch.shape for batch in first] == [(8, 1, 8, 8)] * 2
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0], next(iter(inputs_of(IMAGES, seed=1))))


def test_augmented_batches_are_the_same_each_time() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    source = open_data(pixels, "train", Preprocess())
    plain, moved = (
        CalibrationInputs(source, batches=2, batch_size=8, seed=0, augment=augment)
        for augment in (None, Augment(pad=2, flip=True))
    )
    first, second = list(moved), list(moved)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0], next(iter(plain)))


def test_a_stream_is_read_once_and_no_further_than_needed() -> None:
    given = []

    def stream() -> Iterator[np.ndarray]:
        for start in range(0, len(IMAGES), 10):
            given.append(start)
            yield IMAGES[start : start + 10]

    inputs = inputs_of(stream())
    first, second = list(inputs), list(inputs)
    assert given == [0, 10]
    assert np.array_equal(np.concatenate(first), IMAGES[:16])
    assert all(a is b for a, b in zip(first, second, strict=True))


def test_the_last_batch_may_be_smaller() -> None:
    assert [len(batch) for batch in inputs_of(IMAGES, batches=9, batch_size=16)] == [16, 16, 8]


def test_the_first_samples_are_those_of_as_many_batches_as_it_takes() -> None:
    for data in (IMAGES, [IMAGES[:10], IMAGES[10:]], iter([IMAGES[:10], IMAGES[10:20], IMAGES[20:]])):
        inputs = inputs_of(data, batches=3)
        every = np.concatenate([np.asarray(batch) for batch in inputs])
        assert np.array_equal(inputs.first(20), every[:20])
        assert np.array_equal(inputs.first(100), every)
