import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from qpipe.data.reading import CACHE_BYTES, UNIT, UNITS_AHEAD, ReaderStore, default_workers
from qpipe.errors import DataError


class Counting:
    """Images whose pixels are their index; `log` lists what was read in this process, the folder `marks` in any."""

    def __init__(
        self, count: int, *, fail_at: int | None = None, die_at: int | None = None, marks: Path | None = None
    ) -> None:
        self.count, self.fail_at, self.die_at, self.marks = count, fail_at, die_at, marks
        self.log: list[int] = []

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"image {index}"

    def read(self, index: int) -> np.ndarray:
        self.log.append(index)
        if self.marks is not None:
            (self.marks / str(index)).touch()
        if index == self.fail_at:
            raise DataError(f"image {index} can't be read: it is only a test")
        if index == self.die_at:
            os._exit(3)
        return np.full((2, 3, 1), index, np.uint8)


def _chunks(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[begin : begin + size] for begin in range(0, len(order), size)]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("cache_bytes", [0, CACHE_BYTES])
def test_images_come_in_the_order_that_is_asked_for(workers: int, cache_bytes: int) -> None:
    count = 3 * UNIT + 5
    store = ReaderStore(Counting(count), workers=workers, cache_bytes=cache_bytes)
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(count)
        got = np.concatenate(list(store.gather(_chunks(order, 7))))
        assert got.shape == (count, 2, 3, 1)
        assert got[:, 1, 2, 0].tolist() == order.tolist()


def test_cached_images_are_read_once() -> None:
    reader = Counting(20)
    store = ReaderStore(reader, workers=0)
    reader.log.clear()
    list(store.gather([np.arange(5)]))
    list(store.gather([np.arange(3, 8)]))
    list(store.gather([np.arange(8)]))
    assert sorted(reader.log) == list(range(8))


def test_workers_read_instead_of_this_process() -> None:
    reader = Counting(9)
    store = ReaderStore(reader, workers=2)
    reader.log.clear()
    list(store.gather([np.arange(9)]))
    assert reader.log == []


def test_abandoned_loop_ends_its_workers_at_once(tmp_path: Path) -> None:
    batches = ReaderStore(Counting(4000, marks=tmp_path), workers=2, cache_bytes=0).gather(_chunks(np.arange(4000), 5))
    assert next(batches).shape == (5, 2, 3, 1)
    batches.close()
    assert not multiprocessing.active_children()
    assert len(list(tmp_path.iterdir())) <= UNIT * (2 * UNITS_AHEAD + 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_error_of_a_worker_is_its_one_line(workers: int) -> None:
    store = ReaderStore(Counting(40, fail_at=30), workers=workers)
    with pytest.raises(DataError) as caught:
        list(store.gather([np.arange(40)]))
    assert str(caught.value) == "image 30 can't be read: it is only a test"


def test_killed_worker_is_a_data_error() -> None:
    store = ReaderStore(Counting(9, die_at=5), workers=1)
    with pytest.raises(DataError, match=r"^a worker process that reads images was killed"):
        list(store.gather([np.arange(9)]))


def test_workers_by_default() -> None:
    assert 1 <= default_workers() <= 8
    assert ReaderStore(Counting(1)).workers == default_workers()
