"""Sources of uint8 images: in memory, or read one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from qpipe.data.checks import check_pixels
from qpipe.data.geometry import fit_pixels, output_size
from qpipe.data.preprocess import Pixels, Preprocess
from qpipe.data.reading import ReaderStore
from qpipe.data.source import Batch, Indices, Labels, Reading, Source, SourceInfo


class PixelStore(Protocol):
    """Images by index, all of one shape (H, W, C)."""

    image_shape: tuple[int, int, int]

    def __len__(self) -> int: ...

    def gather(self, chunks: Sequence[Indices]) -> Iterator[Pixels]:
        """Yield uint8 [n, H, W, C] for every chunk of indices."""


class ArrayStore:
    """Images in one array [N, H, W, C] that need neither resize nor crop."""

    def __init__(self, images: Pixels, preprocess: Preprocess, name: str) -> None:
        self.images, self.preprocess = images, preprocess
        channels = preprocess.recolor(images[:1], name).shape[-1]
        self.image_shape: tuple[int, int, int] = (images.shape[1], images.shape[2], channels)

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, chunks: Sequence[Indices]) -> Iterator[Pixels]:
        """Yield uint8 [n, H, W, C] for every chunk of indices."""
        return (self.preprocess.recolor(self.images[chunk]) for chunk in chunks)


class ArrayReader:
    """Images in one array [N, H, W, C] that are resized or cropped when they are read."""

    def __init__(self, images: Pixels, preprocess: Preprocess, name: str) -> None:
        self.images, self.preprocess, self.source_name = images, preprocess, name

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The image's name in error messages."""
        return f"{self.source_name}: image {index}"

    def read(self, index: int) -> Pixels:
        """One image, in its final colour order and size."""
        name = self.name(index)
        return fit_pixels(self.preprocess.recolor(self.images[index], name), self.preprocess, name)


def array_store(images: Pixels, preprocess: Preprocess, name: str) -> PixelStore:
    """The store for images in memory: read in workers only where they are resized or cropped. Raises DataError."""
    check_pixels(images, name)
    size = (images.shape[1], images.shape[2])
    if output_size(*size, preprocess, name) == size and preprocess.resize in (None, min(size)):
        return ArrayStore(images, preprocess, name)
    return ReaderStore(ArrayReader(images, preprocess, name))


class PixelSource(Source):
    """Labelled or unlabelled uint8 images."""

    def __init__(self, info: SourceInfo, store: PixelStore, labels: Labels | None) -> None:
        info.preprocess.check_channels(store.image_shape[2], info.name)
        self._store = store
        shape = info.preprocess.input_shape(*store.image_shape)
        super().__init__(info, image_shape=shape, has_pixels=True, size=len(store), labels=labels)

    def _read(self, reading: Reading) -> Iterator[Batch]:
        chunks = reading.chunks(len(self))
        augment = reading.augment
        plan = augment.plan(len(self), seed=reading.seed, epoch=reading.epoch) if augment else None
        for chunk, pixels in zip(chunks, self._store.gather(chunks), strict=True):
            shown = plan(pixels, chunk) if plan else pixels
            labels = None if self.labels is None else self.labels[chunk]
            yield Batch(self.preprocess(shown), labels, shown)
