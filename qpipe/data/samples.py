"""Data that give a sample by its number: a torch `Dataset`, a Hugging Face `Dataset`, or any object like these.

A sample is inputs, (inputs, label), or a mapping with `label` or `labels` beside the inputs. A picture (of Pillow, or
uint8 of two or three dimensions) is an image and gets the preprocessing, in worker processes; other arrays are what the
network reads. Of a mapping an input is what has its name; of an only input else the one picture or array that there is.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeGuard

import numpy as np

from qpipe.data.arrays import as_array, as_float32
from qpipe.data.checks import check_finite, check_labels
from qpipe.data.geometry import fit_pixels
from qpipe.data.inputs import Array, Input, Inputs
from qpipe.data.pixels import PixelSource
from qpipe.data.preprocess import Pixels
from qpipe.data.reading import ReaderStore
from qpipe.data.source import Batch, Labels, Reading, Source, SourceInfo
from qpipe.errors import DataError, user_code

_LABEL_KEYS = ("labels", "label")
_CHANNELS = (1, 3, 4)


class Samples(Protocol):
    """What is asked of such data."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def gives_samples(data: Any) -> TypeGuard[Samples]:
    """Whether an object gives samples by their numbers, and is no array or list of batches."""
    is_other = isinstance(data, list | tuple | str | bytes | Mapping) or hasattr(data, "__array__")
    return not is_other and hasattr(data, "__len__") and hasattr(data, "__getitem__")


def open_samples(data: Samples, info: SourceInfo, inputs: Sequence[Input]) -> Source:
    """A source of them. Raises DataError where a sample is none."""
    reader = SampleReader(data, info, inputs)
    if not len(data):
        raise DataError(f"data {info.name!r}: has no samples, expected one or more")
    first = reader.values(0)
    labels, names = reader.labels(), reader.class_names()
    info = info.naming(names)
    known = check_labels(labels, len(data), len(names) if names else None, info.name) if labels is not None else None
    if not isinstance(first, Mapping) and _is_picture(first):
        # Elsewhere than in forks the data would have to be sent to the workers.
        workers = None if multiprocessing.get_start_method() == "fork" else 0
        return PixelSource(info, ReaderStore(reader, workers=workers), known)
    return SampleSource(info, reader, known)


class SampleReader:
    """Reads one sample, or one image, by its number."""

    def __init__(self, data: Samples, info: SourceInfo, inputs: Sequence[Input]) -> None:
        self._data, self._info, self._inputs = data, info, inputs

    def __len__(self) -> int:
        return len(self._data)

    def name(self, index: int) -> str:
        """The sample's name in error messages."""
        return f"data {self._info.name!r}: sample {index}"

    def values(self, index: int) -> Inputs:
        """The inputs, without a batch: an array, or arrays by name. Raises DataError."""
        inputs, _ = self._parts(index)
        if isinstance(inputs, Mapping):
            return {name: self._array(value, f"{self.name(index)}: {name!r}") for name, value in inputs.items()}
        return self._array(inputs, self.name(index))

    def read(self, index: int) -> Pixels:
        """One image as uint8 [H, W, C], in its final colour order and size. Raises DataError."""
        values, name, preprocess = self.values(index), self.name(index), self._info.preprocess
        if isinstance(values, Mapping) or not _is_picture(values):
            raise DataError(f"{name} is no picture, the first one is")
        return fit_pixels(preprocess.recolor(_channels_last(values), name), preprocess, name)

    def labels(self) -> Array | None:
        """All labels; None where there are none, or they are not wanted."""
        if not self._info.reads_labels or self._parts(0)[1] is None:
            return None
        for column in ("targets", *_LABEL_KEYS):
            found = self._column(column)
            if found is not None:
                return found
        return np.stack([as_array(self._parts(index)[1], f"{self.name(index)}: label") for index in range(len(self))])

    def class_names(self) -> tuple[str, ...] | None:
        """As torchvision's and Hugging Face's data have them."""
        features = getattr(self._data, "features", None)
        found = [features[key] for key in _LABEL_KEYS if key in features] if isinstance(features, Mapping) else []
        names = getattr(found[0], "names", None) if found else getattr(self._data, "classes", None)
        is_list = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        return tuple(names) if is_list and names else None

    def _column(self, name: str) -> Array | None:
        """All labels at once, where the data have them so: reading each image for its label takes long."""
        with user_code(DataError, f"data {self._info.name!r}: its {name} can't be read:"):
            features = getattr(self._data, "features", None)
            is_column = isinstance(features, Mapping) and name in features
            values = self._data[name] if is_column else getattr(self._data, name, None)  # type: ignore[index]
            if values is None or callable(values) or len(values) != len(self):
                return None
        return as_array(list(values), f"data {self._info.name!r}: {name}")

    def _parts(self, index: int) -> tuple[Any, Any]:
        with user_code(DataError, f"{self.name(index)} raised"):
            sample = self._data[index]
        if isinstance(sample, Mapping):
            label = next((sample[key] for key in _LABEL_KEYS if sample.get(key) is not None), None)
            return self._chosen(sample, index), label
        if isinstance(sample, tuple | list):
            if len(sample) != 2:
                raise DataError(f"{self.name(index)} has {len(sample)} parts, expected inputs or (inputs, label)")
            return sample[0], sample[1]
        return sample, None

    def _chosen(self, sample: Mapping[str, Any], index: int) -> Any:
        """The network's inputs of a mapping; of one input the value itself."""
        names = [each.name for each in self._inputs]
        others = [key for key in sample if key not in _LABEL_KEYS]
        if names and all(name in sample for name in names):
            return sample[names[0]] if len(names) == 1 else {name: sample[name] for name in names}
        pictures = [key for key in others if hasattr(sample[key], "convert")]
        only = pictures if len(pictures) == 1 else others
        if len(names) > 1 or len(only) != 1:
            wanted = ", ".join(map(repr, names)) or "one input"
            raise DataError(f"{self.name(index)} has {', '.join(map(repr, sample))}, expected {wanted}")
        return sample[only[0]]

    def _array(self, value: Any, called: str) -> Array:
        if hasattr(value, "convert"):  # a picture of Pillow, by its method
            with user_code(DataError, f"{called} can't be read:"):
                value = value.convert("L" if self._info.preprocess.color == "GRAY" else "RGB")
        array = as_array(value, called)
        if array.dtype.kind != "f":
            return array
        check_finite(array, called)
        return as_float32(array)


class SampleSource(Source):
    """Arrays sample by sample, as the network reads them; each is read when it is asked for."""

    def __init__(self, info: SourceInfo, reader: SampleReader, labels: Labels | None) -> None:
        self._reader = reader
        first = reader.values(0)
        shapes = {name: array.shape for name, array in first.items()} if isinstance(first, Mapping) else {}
        super().__init__(
            info,
            image_shape=() if isinstance(first, Mapping) else first.shape,
            has_pixels=False,
            size=len(reader),
            labels=labels,
            sample_shapes=shapes,
        )

    def _read(self, reading: Reading) -> Iterator[Batch]:
        for chunk in reading.chunks(len(self)):
            samples = [self._checked(int(index)) for index in chunk]
            if isinstance(samples[0], Mapping):
                inputs: Inputs = {name: np.stack([s[name] for s in samples]) for name in samples[0]}
            else:
                inputs = np.stack(samples)  # type: ignore[arg-type]
            yield Batch(inputs, None if self.labels is None else self.labels[chunk])

    def _checked(self, index: int) -> Inputs:
        values = self._reader.values(index)
        found = {name: a.shape for name, a in values.items()} if isinstance(values, Mapping) else values.shape
        expected = self.sample_shapes or self.image_shape
        if found != expected:
            raise DataError(f"{self._reader.name(index)} has shape {found}, the first one {expected}")
        return values


def _is_picture(array: Array) -> bool:
    return array.dtype == np.uint8 and array.ndim in (2, 3)


def _channels_last(pixels: Pixels) -> Pixels:
    """uint8 [H, W, C] of that, of [H, W], or of [C, H, W], as torch has images."""
    if pixels.ndim == 2:
        return pixels[..., None]
    is_first = pixels.shape[0] in _CHANNELS and pixels.shape[2] not in _CHANNELS
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1)) if is_first else pixels
