"""Images that are read one by one, in worker processes, and kept in memory as uint8 while all of them fit there."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Protocol

import numpy as np

from qpipe.data.preprocess import Pixels
from qpipe.data.source import Indices
from qpipe.errors import DataError
from qpipe.processes import end_with_parent, usable_cores

CACHE_BYTES = 1 << 30
"""Data sets of up to this many bytes (after resize and crop) are decoded once only."""
MAX_WORKERS = 8
UNIT = 16
"""Images that a worker reads at a time: small, so that prefetching holds few images and workers end together."""
UNITS_AHEAD = 3
"""Units per worker that wait or are being read while the loop works on its batch."""


class Reader(Protocol):
    """Gives one image by its index. It travels to worker processes, so it must be picklable."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Pixels:
        """The image as uint8 [H, W, C], resized, cropped and in the right colour order. Raises DataError."""

    def name(self, index: int) -> str:
        """The image's name in error messages, such as its path."""


class ReaderStore:
    """Images behind a Reader, as arrays: all of one shape, the first one's."""

    def __init__(self, reader: Reader, *, workers: int | None = None, cache_bytes: int = CACHE_BYTES) -> None:
        """`workers`: number of processes, 0 reads in this one; None: one per core, 8 at most."""
        self.reader = reader
        self.workers = default_workers() if workers is None else workers
        first = reader.read(0)
        self.image_shape: tuple[int, int, int] = (first.shape[0], first.shape[1], first.shape[2])
        fits = len(reader) * first.size <= cache_bytes
        self._cache = np.empty((len(reader), *self.image_shape), np.uint8) if fits else None
        self._cached = np.zeros(len(reader), bool)

    def __len__(self) -> int:
        return len(self.reader)

    def gather(self, chunks: Sequence[Indices]) -> Iterator[Pixels]:
        """Yield uint8 [n, H, W, C] for every chunk of indices. Raises DataError."""
        missing = [chunk[~self._cached[chunk]] for chunk in chunks]
        fresh = self._read(np.concatenate(missing)) if any(map(len, missing)) else iter(())
        for chunk, absent in zip(chunks, missing, strict=True):
            target = np.empty((len(absent), *self.image_shape), np.uint8)
            for position, image in enumerate(islice(fresh, len(absent))):
                target[position] = image
            if self._cache is None:
                yield target
                continue
            self._cache[absent] = target
            self._cached[absent] = True
            yield self._cache[chunk]

    def _read(self, indices: Indices) -> Iterator[Pixels]:
        unit = _Unit(self.reader, self.image_shape)
        units = [indices[begin : begin + UNIT].tolist() for begin in range(0, len(indices), UNIT)]
        workers = min(self.workers, len(units))
        for images in _in_workers(unit, units, workers) if workers else map(unit, units):
            yield from images


class _Unit:
    """Reads some images into one array [n, H, W, C]: what one call to a worker does."""

    def __init__(self, reader: Reader, image_shape: tuple[int, int, int]) -> None:
        self.reader, self.image_shape = reader, image_shape

    def __call__(self, indices: Sequence[int]) -> Pixels:
        images = np.empty((len(indices), *self.image_shape), np.uint8)
        for position, index in enumerate(indices):
            image = self.reader.read(index)
            if image.shape != self.image_shape:
                raise self._shape_error(index, image)
            images[position] = image
        return images

    def _shape_error(self, index: int, image: Pixels) -> DataError:
        (height, width, _), (first_height, first_width, _) = image.shape, self.image_shape
        return DataError(
            f"{self.reader.name(index)} is {width}x{height}, {self.reader.name(0)} {first_width}x{first_height}: "
            "expected images of one size; set resize and crop"
        )


def default_workers() -> int:
    """One worker per core that this process may use, 8 at most."""
    return min(usable_cores(), MAX_WORKERS)


# The standard library's pool, not torch's DataLoader: it needs no torch in the workers or here, leaves torch's random
# state alone, and ends at once where a loop over it is abandoned (the loader may wait five seconds per worker).
def _in_workers(unit: _Unit, units: list[list[int]], workers: int) -> Iterator[Pixels]:
    pool = ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(unit, os.getpid()))
    pending: deque[Future[Pixels]] = deque()
    try:
        for indices in units:
            pending.append(pool.submit(_work, indices))
            if len(pending) > UNITS_AHEAD * workers:  # reads no further ahead than this, so memory stays flat
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except DataError as error:
        raise DataError(str(error)) from None  # without the worker's traceback
    except BrokenProcessPool as error:
        raise DataError("a worker process that reads images was killed, perhaps for its memory") from error
    finally:
        pool.shutdown(cancel_futures=True)


_unit_of_worker: _Unit | None = None
"""In a worker process: what it was started for, so that it travels there once."""


def _start_worker(unit: _Unit, parent: int) -> None:
    """The main process alone answers to Ctrl-C, and ends its workers; what ends it by force ends them as well."""
    global _unit_of_worker
    _unit_of_worker = unit
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGHUP"):  # a fork has the handlers of the command line
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    end_with_parent(parent)


def _work(indices: list[int]) -> Pixels:
    assert _unit_of_worker is not None
    return _unit_of_worker(indices)
