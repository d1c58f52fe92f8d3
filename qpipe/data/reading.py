"""Images that are read one by one, in worker processes, and kept in memory as uint8 while all of them fit there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from qpipe.data.preprocess import Pixels
from qpipe.data.source import Indices
from qpipe.errors import DataError

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

CACHE_BYTES = 1 << 30
"""Data sets of up to this many bytes (after resize and crop) are decoded once only."""
MAX_WORKERS = 8
UNIT = 16
"""Images that a worker reads at a time: small, so that prefetching holds few images and workers end together."""


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
            for position in range(len(absent)):
                target[position] = next(fresh)
            if self._cache is None:
                yield target
                continue
            self._cache[absent] = target
            self._cached[absent] = True
            yield self._cache[chunk]

    def _read(self, indices: Indices) -> Iterator[Pixels]:
        units = [indices[begin : begin + UNIT].tolist() for begin in range(0, len(indices), UNIT)]
        dataset = _Dataset(self.reader, self.image_shape)
        workers = min(self.workers, len(units))
        results = _in_workers(dataset, units, workers) if workers else map(dataset.__getitems__, units)
        for result in results:
            if isinstance(result, str):
                raise DataError(result)
            yield from result


class _Dataset:
    """A torch dataset (by its methods: this module must not import torch). An error travels back as its message."""

    def __init__(self, reader: Reader, image_shape: tuple[int, int, int]) -> None:
        self.reader, self.image_shape = reader, image_shape

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Pixels:
        return self.reader.read(index)

    def __getitems__(self, indices: Sequence[int]) -> Pixels | str:
        images = np.empty((len(indices), *self.image_shape), np.uint8)
        for position, index in enumerate(indices):
            try:
                image = self.reader.read(index)
                check_shape(self.reader, index, image, self.image_shape)
            except DataError as error:
                return str(error)
            images[position] = image
        return images


def check_shape(reader: Reader, index: int, image: Pixels, expected: tuple[int, int, int]) -> None:
    """Raise DataError where this image differs in shape from the first."""
    if image.shape != expected:
        (height, width, _), (first_height, first_width, _) = image.shape, expected
        raise DataError(
            f"{reader.name(index)} is {width}x{height}, {reader.name(0)} {first_width}x{first_height}: "
            "expected images of one size; set resize and crop"
        )


def default_workers() -> int:
    """One worker per core that this process may use, 8 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_WORKERS)


def _in_workers(dataset: _Dataset, units: list[list[int]], workers: int) -> Iterator[Pixels | str]:
    import torch
    from torch.utils.data import DataLoader

    loader: DataLoader[Pixels | str] = DataLoader(
        dataset,  # type: ignore[arg-type]  # a dataset by its methods
        batch_sampler=units,
        num_workers=workers,
        # Arrays travel through a pipe as they are: shared memory (what tensors use) is 64 MB in many containers.
        collate_fn=_identity,
        # A generator of its own: the loader's seeds must not depend on, or change, the one that training draws from.
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except RuntimeError as error:  # a worker that was killed, say for its memory
        message = str(error).strip() or repr(error)
        raise DataError(f"reading images in {workers} worker processes: {message.splitlines()[-1]}") from error


def _identity(result: Any) -> Any:
    return result
