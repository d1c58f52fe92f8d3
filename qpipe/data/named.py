"""Arrays by the names of a network's inputs: of an `.npz`, a mapping, or a folder of `NAME.npy`.

- one array for each input, the first axis the samples (see `qpipe/data/inputs.py`); `labels` beside them
- `train_NAME`, `train_labels`, `test_NAME`, ... where there are splits; in a folder also `train/NAME.npy`
- a number stands for all samples

uint8 arrays `[N, H, W, C]` of a float input of four dimensions are images, and get the preprocessing; all others are
what the network reads. What can't stand in a name of a file, as "/", is "_" in a folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qpipe.data.arrays import LABELS, as_array, as_float32
from qpipe.data.checks import check_finite, check_labels
from qpipe.data.inputs import Array, Input
from qpipe.data.preprocess import Preprocess
from qpipe.data.source import SPLITS, Batch, Labels, Reading, Source, SourceInfo, Split, choose_split, undivided_note
from qpipe.errors import DataError, one_line, user_code


class NamedSource(Source):
    """Arrays in memory, one for each input by its name, which images' preprocessing was not applied to yet."""

    def __init__(
        self, info: SourceInfo, arrays: Mapping[str, Array], images: frozenset[str], labels: Labels | None
    ) -> None:
        self._arrays, self._images, self._info_of = dict(arrays), images, info
        first = {name: self._ready(name, array[:1]) for name, array in arrays.items()}
        shapes = {name: array.shape[1:] for name, array in first.items()}
        content = ", ".join(f"'{name}' {array.dtype} {list(array.shape[1:])}" for name, array in first.items())
        super().__init__(
            info.having(content),
            image_shape=next(iter(shapes.values())) if len(shapes) == 1 else (),
            has_pixels=False,
            size=len(next(iter(arrays.values()))),
            labels=labels,
            sample_shapes=shapes,
        )

    def _read(self, reading: Reading) -> Iterator[Batch]:
        for chunk in reading.chunks(len(self)):
            inputs = {name: self._ready(name, array[chunk]) for name, array in self._arrays.items()}
            yield Batch(inputs, None if self.labels is None else self.labels[chunk])

    def _ready(self, name: str, array: Array) -> Array:
        if name not in self._images:
            return as_float32(array) if array.dtype.kind == "f" else array
        preprocess = self._info_of.preprocess
        return preprocess(preprocess.recolor(array, self._info_of.name))


def load_npy(path: Path) -> npt.NDArray[Any]:
    """The array of a `.npy` file, of which only what is used is read. Raises DataError."""
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"'{path}' can't be read: {one_line(error)}") from None
    return array


class NpyFolder(Mapping[str, npt.NDArray[Any]]):
    """The arrays of a folder's `.npy` files by their names; those below train, val and test with that in front."""

    def __init__(self, root: Path) -> None:
        self._files = {path.stem: path for path in sorted(root.glob("*.npy"))}
        for split in SPLITS:
            self._files |= {f"{split}_{path.stem}": path for path in sorted((root / split).glob("*.npy"))}

    def __getitem__(self, key: str) -> npt.NDArray[Any]:
        return load_npy(self._files[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def open_named(
    arrays: Mapping[str, Any],
    name: str,
    split: Split,
    preprocess: Preprocess,
    inputs: Sequence[Input],
    *,
    labels: bool = True,
) -> NamedSource:
    """The arrays of one split, for these inputs. Raises DataError where one is missing, or is no data for its input."""
    keys = {each.name: key for each in inputs if (key := _key(arrays, each.name)) is not None}
    splits = [s for s in SPLITS if all(_key(arrays, f"{s}_{each.name}") is not None for each in inputs)]
    chosen, note = choose_split(splits, split, name) if splits else (split, undivided_note(name, split))
    prefix = f"{chosen}_" if splits else ""
    if splits:
        keys = {each.name: str(_key(arrays, prefix + each.name)) for each in inputs}
    for each in inputs:
        if each.name not in keys:
            found = ", ".join(repr(key) for key in arrays) or "no arrays"
            raise DataError(f"data {name!r}: input {each.words}, but no array has its name; found {found}")
    read = {each.name: _read(arrays, keys[each.name], name) for each in inputs}
    count = next((len(array) for array in read.values() if array.ndim), 1)
    for each in inputs:
        array = read[each.name] = _spread(read[each.name], count)
        if len(array) != count:
            raise DataError(f"data {name!r}: {keys[each.name]!r} has {len(array)} samples, others have {count}")
        _check(array, each, f"data {name!r}: {keys[each.name]!r}")
    known = None
    if labels and prefix + LABELS in arrays and LABELS not in read:
        known = check_labels(_read(arrays, prefix + LABELS, name), count, None, name)
    info = SourceInfo(
        name,
        preprocess,
        note=note,
        splits=tuple(splits),
        split=chosen,
        reads_labels=labels,
    )
    return NamedSource(info, read, frozenset(each.name for each in inputs if _is_image(read[each.name], each)), known)


def has_named(arrays: Mapping[str, Any], inputs: Sequence[Input]) -> bool:
    """Whether there is an array of the name of one of these inputs, in some split."""
    names = [prefix + each.name for each in inputs for prefix in ("", *(f"{split}_" for split in SPLITS))]
    return any(_key(arrays, name) is not None for name in names)


def _key(arrays: Mapping[str, Any], name: str) -> str | None:
    if name in arrays:
        return name
    plain = re.sub(r"[^\w.-]", "_", name)
    return plain if plain in arrays else None


def _read(arrays: Mapping[str, Any], key: str, name: str) -> Array:
    with user_code(DataError, f"data {name!r}: {key!r} can't be read:"):
        return as_array(arrays[key], f"data {name!r}: {key!r}")


def _spread(array: Array, count: int) -> Array:
    """A number for every sample."""
    return np.full(count, array) if array.ndim == 0 else array


def _is_image(array: Array, each: Input) -> bool:
    return array.dtype == np.uint8 and array.ndim == 4 and each.dtype.kind == "f" and len(each.shape or ()) == 4


def _check(array: Array, each: Input, called: str) -> None:
    if array.size == 0:
        raise DataError(f"{called}: shape is {list(array.shape)}, expected at least one sample and one value in it")
    if _is_image(array, each):
        return
    if array.dtype.kind == "f" and each.dtype.kind != "f":
        raise DataError(f"{called}: values are {array.dtype}, but the input {each.words}")
    if array.dtype.kind == "f":
        check_finite(array, called)
