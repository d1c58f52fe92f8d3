"""Sources of float arrays, and of streams: iterables of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import chain, count
from typing import Any

import numpy as np
import numpy.typing as npt

from qpipe.data.checks import check_finite, check_floats, check_labels, check_pixels
from qpipe.data.geometry import fit_pixels
from qpipe.data.inputs import joined
from qpipe.data.preprocess import Floats, Pixels, Preprocess
from qpipe.data.source import Batch, Labels, Reading, Source, SourceInfo
from qpipe.errors import DataError, user_code

LABELS = "labels"
"""What stands beside the inputs, where data are arrays by name."""


class FloatSource(Source):
    """Float values [N, ...] in memory, which `transform` (by default nothing) turns into inputs batch by batch."""

    def __init__(
        self,
        info: SourceInfo,
        values: npt.NDArray[Any],
        labels: Labels | None,
        transform: Callable[[npt.NDArray[Any]], Floats] | None = None,
    ) -> None:
        check_floats(values, info.name)
        self._values, self._transform = values, transform or as_float32
        shape = self._transform(values[:1]).shape[1:]
        super().__init__(info, image_shape=shape, has_pixels=False, size=len(values), labels=labels)

    def _read(self, reading: Reading) -> Iterator[Batch]:
        for chunk in reading.chunks(len(self)):
            yield Batch(self._transform(self._values[chunk]), None if self.labels is None else self.labels[chunk])


class StreamSource(Source):
    """An iterable of batches, none of which is kept: inputs, or (inputs, labels), of any batch size.

    The stream keeps its own order (`shuffle` has no effect), and is cut anew into the batch size that is asked for.
    integers: the name of the network's only input, where it reads these.
    """

    def __init__(self, info: SourceInfo, stream: Iterable[Any], *, integers: str | None = None) -> None:
        with _iterating(info.name, 0):
            items = iter(stream)
            first = next(items, None)
        if first is None:
            raise DataError(f"data {info.name!r}: the iterable is empty, expected arrays or (inputs, labels)")
        self._integers = integers
        batch = _batch(first, info, integers)
        super().__init__(
            info,
            image_shape=() if isinstance(batch.inputs, Mapping) else batch.inputs.shape[1:],
            has_pixels=batch.pixels is not None,
            size=None,
            first_labels=batch.labels,
            sample_shapes=sample if isinstance(sample := _sample(batch), Mapping) else {},
        )
        self._labelled = batch.labels is not None
        # An iterator can be run through once, so the item that was taken from it goes back in front.
        self._once = items is stream
        self._stream: Iterable[Any] | None = chain([first], items) if self._once else stream

    def _read(self, reading: Reading) -> Iterator[Batch]:
        augment, portion = reading.augment, reading.portion
        if portion.count > 1:
            raise DataError(f"data {self.name!r} come as a stream, which several processes can't share: give arrays")
        recut = _recut(self._items(), reading.batch_size, reading.limit)
        for part, whole in enumerate(recut):
            if reading.drop_last and len(whole) < reading.batch_size:
                return
            if part < portion.skip:
                continue
            if augment is None or whole.pixels is None:
                yield whole
                continue
            plan = augment.plan(len(whole), seed=reading.seed, epoch=reading.epoch, part=part)
            pixels = plan(whole.pixels, np.arange(len(whole)))
            yield Batch(self.preprocess(pixels), whole.labels, pixels)

    def _items(self) -> Iterator[Batch]:
        if self._stream is None:
            raise DataError(f"data {self.name!r}: the iterator is used up; give a list, or an object that starts anew")
        items = self._stream
        if self._once:
            self._stream = None
        return map(self._checked, _counted(items, self.name), count())

    def _checked(self, item: Any, position: int) -> Batch:
        """The item's batch, which is of the first one's kind."""
        batch = _batch(item, self.info, self._integers)
        for what, found, expected in (
            ("inputs of shape", *map(_shown, (_sample(batch), self.sample_shapes or self.image_shape))),
            ("uint8 images:", batch.pixels is not None, self.has_pixels),
            ("labels:", batch.labels is not None, self._labelled),
        ):
            if found != expected:
                raise DataError(f"data {self.name!r}: item {position} has {what} {found}, the first one {expected}")
        return batch


def _counted(items: Iterable[Any], name: str) -> Iterator[Any]:
    """The items of an iterable of the user's own; DataError says at which it raised."""
    position, ended = 0, object()
    with _iterating(name, position):
        iterator = iter(items)
    while True:
        with _iterating(name, position):
            item = next(iterator, ended)
        if item is ended:
            return
        yield item
        position += 1


def _iterating(name: str, position: int) -> AbstractContextManager[None]:
    return user_code(DataError, f"data {name!r}: at item {position} the iterable raised")


def _sample(batch: Batch) -> Mapping[str, tuple[int, ...]] | tuple[int, ...]:
    """The shape of one sample, or those of its arrays by name."""
    inputs = batch.inputs
    if isinstance(inputs, Mapping):
        return {name: array.shape[1:] for name, array in inputs.items()}
    return inputs.shape[1:]


def _shown(shape: Mapping[str, tuple[int, ...]] | tuple[int, ...]) -> str:
    if isinstance(shape, Mapping):
        return ", ".join(f"'{name}' {list(own)}" for name, own in shape.items())
    return str(list(shape))


def _batch(item: Any, info: SourceInfo, integers: str | None) -> Batch:
    """An item of a stream, checked, as the network takes it."""
    preprocess, name = info.preprocess, info.name
    inputs, labels = split_item(item, f"data {name!r}")
    if integers is not None and not isinstance(inputs, Mapping):
        inputs = {integers: inputs}
    if isinstance(inputs, Mapping):
        return _named(inputs, labels, info)
    values = as_array(inputs, f"data {name!r}")
    if values.ndim == 0:
        raise DataError(f"data {name!r}: an item has shape [], expected [N, ...]")
    is_known = labels is not None and info.reads_labels
    known = check_labels(as_array(labels, f"data {name!r}: labels"), len(values), None, name) if is_known else None
    if values.dtype != np.uint8:
        check_floats(values, name)
        return Batch(as_float32(values), known)
    pixels = _fitted(values, preprocess, name)
    preprocess.check_channels(pixels.shape[-1], name)
    return Batch(preprocess(pixels), known, pixels)


def _named(inputs: Mapping[str, Any], labels: Any, info: SourceInfo) -> Batch:
    """Arrays by name, each as the network reads it."""
    called = f"data {info.name!r}"
    arrays = {name: as_array(value, f"{called}: {name!r}") for name, value in inputs.items()}
    counts = {len(array) for array in arrays.values() if array.ndim}
    if len(counts) != 1 or not all(array.ndim for array in arrays.values()):
        shown = ", ".join(f"{name!r} {list(array.shape)}" for name, array in arrays.items()) or "nothing"
        raise DataError(f"{called}: an item has {shown}, expected arrays by name with one number of samples")
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            check_finite(array, f"{called}: {name!r}")
            arrays[name] = as_float32(array)
    is_known = labels is not None and info.reads_labels
    known = check_labels(as_array(labels, f"{called}: labels"), min(counts), None, info.name) if is_known else None
    return Batch(arrays, known)


def _fitted(images: Pixels, preprocess: Preprocess, name: str) -> Pixels:
    check_pixels(images, name)
    pixels = preprocess.recolor(images, name)
    if preprocess.resize is None and preprocess.crop is None:
        return pixels
    return np.stack([fit_pixels(image, preprocess, name) for image in pixels])


def _recut(batches: Iterator[Batch], size: int, limit: int | None) -> Iterator[Batch]:
    """Cut a stream into batches of `size` samples, `limit` samples in all, reading no further than needed."""
    held: list[Batch] = []
    left = limit
    for batch in batches:
        held.append(batch.part(slice(left)))
        if left is not None:
            left -= len(held[-1])
        if sum(map(len, held)) >= size or left == 0:
            whole = _joined(held)
            full = len(whole) // size * size
            yield from (whole.part(slice(begin, begin + size)) for begin in range(0, full, size))
            held = [whole.part(slice(full, None))] if len(whole) > full else []
        if left == 0:
            break
    if held:
        yield _joined(held)


def _joined(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    labels = [batch.labels for batch in batches if batch.labels is not None]
    pixels = [batch.pixels for batch in batches if batch.pixels is not None]
    return Batch(
        joined([batch.inputs for batch in batches]),
        _joined_labels(labels) if labels else None,
        np.concatenate(pixels) if pixels else None,
    )


def _joined_labels(labels: list[Labels]) -> npt.NDArray[Any]:
    shapes = {each.shape[1:] for each in labels}
    if len(shapes) > 1:
        shown = " and ".join(str(list(shape)) for shape in sorted(shapes))
        raise DataError(f"data: batches have labels of shapes {shown}, expected one shape")
    return np.concatenate(labels)


def split_item(item: Any, called: str) -> tuple[Any, Any]:
    """The inputs and the labels (None where there are none) of one item of an iterable. Raises DataError."""
    if isinstance(item, Batch):
        return (item.inputs if item.pixels is None else item.pixels), item.labels
    if isinstance(item, Mapping):
        arrays = {str(key): value for key, value in item.items() if key != LABELS}
        return (next(iter(arrays.values())) if len(arrays) == 1 else arrays), item.get(LABELS)
    if isinstance(item, tuple | list):
        if len(item) != 2:
            raise DataError(
                f"{called}: an item of the iterable has {len(item)} parts, expected inputs or (inputs, labels)"
            )
        return item[0], item[1]
    return item, None


def as_array(value: Any, called: str) -> npt.NDArray[Any]:
    """A numpy array of an array, a torch tensor or nested lists of numbers. Raises DataError that names `called`."""
    with user_code(DataError, f"{called}: {type(value).__name__} is no array:"):
        if hasattr(value, "detach"):  # a torch tensor, by its method: torch need not be imported for it
            value = value.detach().cpu()
        array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise DataError(f"{called}: expected arrays of numbers, found {type(value).__name__} of {array.dtype}")
    return array


def as_float32(values: npt.NDArray[Any]) -> Floats:
    """The same values as float32, each row of memory in order."""
    return np.ascontiguousarray(values, dtype=np.float32)
