"""The one interface of all data: a Source gives batches, in an order that (seed, epoch) fixes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from qpipe.data.draws import SHUFFLE, generator
from qpipe.data.found import Found
from qpipe.data.inputs import Inputs, count_of, part_of
from qpipe.data.preprocess import Pixels, Preprocess
from qpipe.errors import DataError

if TYPE_CHECKING:
    from qpipe.data.augment import Augment

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Labels = npt.NDArray[np.int64] | npt.NDArray[np.float32]
"""`[N, ...]`: classes, or rows, maps and numbers, as `qpipe/tasks/` reads them."""
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Batch:
    """Part of the data, ready for the network.

    `inputs`: float32 [N, C, H, W] ([N, H, W, C] where the preprocessing's layout says so; float data keep their rank),
    or, of a network of several inputs, an array for each by its name (see `qpipe/data/inputs.py`).
    `labels`: int64 or float32 [N, ...], or None where there are none. `pixels`: the uint8 [N, H, W, C] that `inputs`
    were computed from (after resize, crop, colour order and augmentation), or None where the data are floats.
    """

    inputs: Inputs
    labels: Labels | None = None
    pixels: Pixels | None = None

    def __len__(self) -> int:
        return count_of(self.inputs)

    def part(self, which: slice | Indices) -> Batch:
        """Some of its samples."""
        return Batch(
            part_of(self.inputs, which),
            None if self.labels is None else self.labels[which],
            None if self.pixels is None else self.pixels[which],
        )


@dataclass(frozen=True)
class Portion:
    """What one of several processes reads: every `count`-th sample of each batch, from `index` on.

    `skip`: batches that are left out at first, where a run goes on.
    """

    index: int = 0
    count: int = 1
    skip: int = 0


WHOLE = Portion()


@dataclass(frozen=True)
class Reading:
    """One pass over the data, as `Source.batches` is asked for it. Raises DataError for numbers that make no sense.

    among: the indices of the samples that are read at all; None: all.
    """

    batch_size: int
    shuffle: bool = False
    seed: int = 0
    epoch: int = 0
    limit: int | None = None
    augment: Augment | None = None
    drop_last: bool = False
    portion: Portion = WHOLE
    among: Indices | None = None

    def __post_init__(self) -> None:
        for key, value, least in (("batch size", self.batch_size, 1), ("seed", self.seed, 0), ("epoch", self.epoch, 0)):
            if value < least:
                raise DataError(f"{key} is {value}, expected at least {least}")
        if self.limit is not None and self.limit < 1:
            raise DataError(f"limit is {self.limit}, expected at least 1 sample")

    def chunks(self, count: int) -> list[Indices]:
        """The indices of every batch of `count` samples, of those that the portion has."""
        among = np.arange(count) if self.among is None else self.among
        order = generator(self.seed, self.epoch, SHUFFLE).permutation(among) if self.shuffle else among
        order = order[: self.limit]
        chunks = [order[begin : begin + self.batch_size] for begin in range(0, len(order), self.batch_size)]
        kept = [chunk for chunk in chunks if len(chunk) == self.batch_size or not self.drop_last]
        return [chunk[self.portion.index :: self.portion.count] for chunk in kept[self.portion.skip :]]


@dataclass(frozen=True)
class SourceInfo:
    """What is known of data before they are read.

    name: the path or name that error messages show. class_names: in the order of the labels. note: where the data lack
    the split that was asked for, one line that says what is used instead. splits, split, content, remarks: as in
    `Found`. reads_labels: whether labels are wanted; else they are neither read nor checked.
    """

    name: str
    preprocess: Preprocess
    class_names: tuple[str, ...] | None = None
    note: str | None = None
    splits: tuple[str, ...] = ()
    split: str | None = None
    content: str | None = None
    remarks: tuple[str, ...] = ()
    reads_labels: bool = True

    def having(self, content: str) -> SourceInfo:
        """The same, of data whose samples are described so."""
        return replace(self, content=content)

    def naming(self, class_names: tuple[str, ...] | None) -> SourceInfo:
        """The same, of data with these names of classes."""
        return replace(self, class_names=class_names)


class Source(ABC):
    """Labelled or unlabelled data of one split; name, class_names and split_note are as in `SourceInfo`.

    preprocess: what `batches` applies. image_shape: of one input, (C, H, W), or (H, W, C) in layout NHWC; () where
    samples are several arrays by name, whose shapes are sample_shapes. has_pixels:
    whether the data are uint8 images, which can be augmented and given to an integer-input model. size: the number of
    samples; None for a stream, which ends when it ends. labels: all of them, [N, ...]; None without labels, and for a
    stream, whose batches carry them. first_labels: all of them, or those of a stream's first batch.
    """

    def __init__(
        self,
        info: SourceInfo,
        *,
        image_shape: tuple[int, ...],
        has_pixels: bool,
        size: int | None,
        labels: Labels | None = None,
        first_labels: Labels | None = None,
        sample_shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    ) -> None:
        self.name, self.preprocess = info.name, info.preprocess
        self.class_names, self.split_note = info.class_names, info.note
        self.image_shape, self.has_pixels, self.size, self.labels = image_shape, has_pixels, size, labels
        self.first_labels = labels if first_labels is None else first_labels
        self.sample_shapes = sample_shapes
        self.info = info

    @property
    def found(self) -> Found:
        """What was opened."""
        content = self.info.content or f"{'uint8 images' if self.has_pixels else 'floats'}, {list(self.image_shape)}"
        span = None if self.labels is None else f"{self.labels.min():g} to {self.labels.max():g}"
        if self.labels is not None and self.labels.ndim > 1:
            span = f"[{', '.join(map(str, ('N', *self.labels.shape[1:])))}], {span}"
        if not self.info.reads_labels:
            span = "not read"
        return Found(
            self.name,
            self.info.splits,
            self.info.split,
            self.size,
            content,
            self.class_names,
            span,
            self.info.remarks,
        )

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        limit: int | None = None,
        augment: Augment | None = None,
        drop_last: bool = False,
        portion: Portion = WHOLE,
    ) -> Iterator[Batch]:
        """Yield the data once, `batch_size` samples at a time.

        `limit`: at most this many samples (the first of the order). Order and augmentation depend on (seed, epoch)
        alone: not on the batch size, the limit or the number of workers. `portion`: what of it is read. Raises
        DataError.
        """
        if augment is not None and not self.has_pixels:
            raise DataError(f"data {self.name!r} are float values: augmentation needs uint8 images")
        return self._read(Reading(batch_size, shuffle, seed, epoch, limit, augment, drop_last, portion))

    @abstractmethod
    def _read(self, reading: Reading) -> Iterator[Batch]: ...

    def __len__(self) -> int:
        if self.size is None:
            raise DataError(f"data {self.name!r} come as a stream, whose number of samples is not known before its end")
        return self.size

    def n_batches(self, batch_size: int, *, limit: int | None = None, drop_last: bool = False) -> int | None:
        """The number of batches that `batches` gives with the same arguments; None for a stream."""
        if self.size is None:
            return None
        samples = self.size if limit is None else min(limit, self.size)
        return samples // batch_size if drop_last else -(-samples // batch_size)


def choose_split(available: Collection[Split], wanted: Split, name: str) -> tuple[Split, str | None]:
    """The split to use, and a note where it is another: val and test stand in for each other. Raises DataError."""
    if wanted in available:
        return wanted, None
    stand_in: dict[Split, Split] = {"val": "test", "test": "val"}
    if (other := stand_in.get(wanted)) in available and other is not None:
        return other, f"data {name!r} have no split {wanted!r}: {other!r} is used"
    raise DataError(f"data {name!r} have no split {wanted!r}, found {', '.join(sorted(available))}")


def undivided_note(name: str, wanted: Split) -> str:
    """The note of data without splits, which give all their samples as every split."""
    return f"data {name!r} have no splits: all samples are used as {wanted!r}"
