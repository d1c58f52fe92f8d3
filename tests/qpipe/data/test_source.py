import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.data import Augment, Portion, open_data
from qpipe.data.source import Reading, choose_split
from qpipe.errors import DataError


def _samples(count: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (count, 6, 5, 3), dtype=np.uint8)
    return images, np.arange(count)


@given(
    count=st.integers(1, 30),
    size=st.integers(1, 12),
    limit=st.none() | st.integers(1, 40),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_order_and_augmentation_do_not_depend_on_the_batch_size(
    count: int, size: int, limit: int | None, seed: int, epoch: int
) -> None:
    source = open_data(_samples(count))
    options = {"shuffle": True, "seed": seed, "epoch": epoch, "augment": Augment(pad=2)}
    (whole,) = source.batches(count, **options)
    parts = list(source.batches(size, limit=limit, **options))
    kept = min(limit or count, count)
    assert len(parts) == source.n_batches(size, limit=limit)
    np.testing.assert_array_equal(np.concatenate([p.inputs for p in parts]), whole.inputs[:kept])
    np.testing.assert_array_equal(np.concatenate([p.pixels for p in parts]), whole.pixels[:kept])
    assert [int(label) for part in parts for label in part.labels] == whole.labels[:kept].tolist()
    assert sorted(whole.labels.tolist()) == list(range(count))


def test_labels_stay_with_their_images() -> None:
    images, labels = _samples(20)
    source = open_data((images, labels))
    for batch in source.batches(7, shuffle=True, seed=5):
        np.testing.assert_array_equal(batch.pixels, images[batch.labels])
        np.testing.assert_array_equal(batch.inputs, source.preprocess(images[batch.labels]))
        assert batch.inputs.dtype == np.float32


def test_epochs_and_seeds_give_other_orders() -> None:
    source = open_data(_samples(40))
    orders = [
        next(source.batches(40, shuffle=True, seed=seed, epoch=epoch)).labels.tolist()
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))
    ]
    assert orders[0] == orders[3]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


def test_unshuffled_keeps_the_order_and_drop_last_the_size() -> None:
    source = open_data(_samples(10))
    assert [len(batch) for batch in source.batches(4)] == [4, 4, 2]
    assert [len(batch) for batch in source.batches(4, drop_last=True)] == [4, 4]
    assert source.n_batches(4) == 3
    assert source.n_batches(4, drop_last=True) == 2
    assert [int(label) for batch in source.batches(4) for label in batch.labels] == list(range(10))
    assert len(source) == 10


@given(count=st.integers(1, 4), skip=st.integers(0, 4), drop_last=st.booleans())
def test_portions_are_the_batches_dealt_out(count: int, skip: int, drop_last: bool) -> None:
    source = open_data(_samples(19))
    options = {"shuffle": True, "seed": 1, "augment": Augment(pad=2), "drop_last": drop_last}
    whole = list(source.batches(5, **options))[skip:]
    portions = [list(source.batches(5, portion=Portion(index, count, skip), **options)) for index in range(count)]
    assert {len(portion) for portion in portions} == {len(whole)}
    for expected, *parts in zip(whole, *portions, strict=True):
        for index, part in enumerate(parts):
            np.testing.assert_array_equal(part.inputs, expected.inputs[index::count])
            np.testing.assert_array_equal(part.labels, expected.labels[index::count])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch size is 0, expected at least 1"),
        ({"batch_size": 1, "limit": 0}, "limit is 0, expected at least 1 sample"),
        ({"batch_size": 1, "seed": -1}, "seed is -1, expected at least 0"),
        ({"batch_size": 1, "epoch": -1}, "epoch is -1, expected at least 0"),
    ],
)
def test_bad_requests(options: dict[str, int], message: str) -> None:
    with pytest.raises(DataError) as caught:
        next(open_data(_samples(3)).batches(**options))
    assert str(caught.value) == message


def test_chunks_index_every_sample_once() -> None:
    chunks = Reading(4, shuffle=True).chunks(11)
    assert sorted(np.concatenate(chunks).tolist()) == list(range(11))


def test_val_and_test_stand_in_for_each_other_but_not_for_train() -> None:
    assert choose_split({"train", "test"}, "test", "f") == ("test", None)
    assert choose_split({"train", "test"}, "val", "f") == ("test", "data 'f' have no split 'val': 'test' is used")
    assert choose_split({"train", "val"}, "test", "f")[0] == "val"
    with pytest.raises(DataError, match=r"^data 'f' have no split 'train', found test, val$"):
        choose_split({"test", "val"}, "train", "f")
