"""Arrays in an `.npz` file (or a mapping of arrays), by their keys.

- `images` uint8 [N, H, W, C], or `x` float [N, H, W, C]; the type decides, not the key. Where only [N, C, H, W] fits
  the network they are read so, and [N, H, W] where it reads one channel
- `labels` (or `y`) [N, ...]: classes, or rows, maps and numbers for other tasks; and `class_names`; both optional
- `train_images`, `train_labels`, `test_images`, ... (also `val_`, and `x` in place of `images`) where there are splits,
  or `x_train`, `y_train`, `x_test`, ...

Or an array for each of a network's inputs, by its name: see `qpipe/data/named.py`.

Other arrays are not read, and named. Where two could be meant, as `images` and `x`, neither is.
Nothing is unpickled.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qpipe.data.archive import NpzArchive
from qpipe.data.arrays import FloatSource, as_array
from qpipe.data.checks import check_floats, check_labels
from qpipe.data.inputs import Input
from qpipe.data.named import has_named, open_named
from qpipe.data.pixels import PixelSource, array_store
from qpipe.data.preprocess import Preprocess
from qpipe.data.source import SPLITS, Source, SourceInfo, Split, choose_split, undivided_note
from qpipe.errors import DataError, one_line, user_code
from qpipe.progress import step

_IMAGES, _LABELS = ("images", "x"), ("labels", "y")
_EXPECTED = (
    "expected 'images' (or 'x') and 'labels', or 'train_images', 'train_labels', 'test_images', ..., or 'x_train', "
    "'y_train', 'x_test', ..."
)
_SLOW_BYTES = 32 << 20
_SHOWN = 3
"""Arrays that are not read of which a remark gives the names."""


def open_npz(
    path: Path, split: Split, preprocess: Preprocess, *, labels: bool = True, inputs: Sequence[Input] = ()
) -> Source:
    """The arrays of one split of an `.npz` file; only these are read. Raises DataError."""
    with (
        NpzArchive(path) as arrays,
        step(f"reading {path.name}") if path.stat().st_size > _SLOW_BYTES else nullcontext(),
    ):
        return open_mapping(arrays, str(path), split, preprocess, labels=labels, inputs=inputs)


def open_mapping(
    arrays: Mapping[str, Any],
    name: str,
    split: Split,
    preprocess: Preprocess,
    *,
    labels: bool = True,
    inputs: Sequence[Input] = (),
) -> Source:
    """The arrays of one split of a mapping; `labels`: whether those are read. Raises DataError.

    inputs: of the network, by whose names there may be arrays; of an only input `images` and `x` come first.
    """
    has_images = any(_found(arrays, each, _IMAGES) for each in (None, *SPLITS))
    if len(inputs) > 1 or (inputs and not has_images and has_named(arrays, inputs)):
        return open_named(arrays, name, split, preprocess, inputs, labels=labels)
    chosen, note = _find_split(arrays, name, split)
    image_key, label_keys = _image_key(arrays, name, chosen), _found(arrays, chosen, _LABELS)
    images = _read(arrays, image_key, name)
    found = _read(arrays, label_keys[0], name) if labels and label_keys else None
    class_names = _class_names(arrays, name) if labels else None
    splits = _splits(arrays)
    info = SourceInfo(
        name,
        preprocess,
        class_names,
        note,
        splits=splits,
        split=chosen or split,
        remarks=_unread(arrays, splits),
        reads_labels=labels,
    )
    return array_source(info, images, found, key=image_key, inputs=inputs)


def array_source(
    info: SourceInfo, values: npt.NDArray[Any], labels: Any, *, key: str = "", inputs: Sequence[Input] = ()
) -> Source:
    """A source of uint8 images [N, H, W, C] or of float values in memory.

    `key`: of the file or mapping that the values come from; floats of one are [N, H, W, C] and get mean, std and
    layout, others are inputs already. `inputs`: of the network, which tell images that are [N, C, H, W] or [N, H, W].
    Raises DataError.
    """
    name = f"{info.name}: {key!r}" if key else info.name
    if values.ndim == 0:
        raise DataError(f"{name}: shape is [], expected [N, ...]")
    classes = None if info.class_names is None else len(info.class_names)
    is_known = labels is not None and info.reads_labels
    known = (
        check_labels(as_array(labels, f"{info.name}: labels"), len(values), classes, info.name) if is_known else None
    )
    channels = _channels(inputs, info.preprocess) if key or values.dtype == np.uint8 else None
    if values.ndim == 4 and values.shape[1] == channels != values.shape[3]:
        values = np.moveaxis(values, 1, -1)
        info = replace(info, remarks=(*info.remarks, "read as [N, C, H, W]"))
    if values.ndim == 3 and channels == 1:
        values = values[..., None]
        info = replace(info, remarks=(*info.remarks, "read as [N, H, W]"))
    if values.dtype == np.uint8:
        return PixelSource(info, array_store(values, info.preprocess, name), known)
    check_floats(values, name)
    if not key:
        return FloatSource(info, values, known)
    info.preprocess.check_channels(values.shape[-1], name)
    return FloatSource(info, values, known, info.preprocess.normalize_floats)


def _channels(inputs: Sequence[Input], preprocess: Preprocess) -> int | None:
    """How many a network of images reads; None where that is unknown, or it reads something else."""
    shape = inputs[0].shape if len(inputs) == 1 else None
    if shape is None or len(shape) != 4:
        return None
    channels = shape[1 if preprocess.layout == "NCHW" else 3]
    return channels if isinstance(channels, int) else None


def _spellings(split: Split | None, kinds: Sequence[str]) -> list[str]:
    """The keys by which arrays of these kinds may stand in a split, or where there are no splits."""
    if split is None:
        return list(kinds)
    return [key for kind in kinds for key in (f"{split}_{kind}", f"{kind}_{split}")]


def _found(arrays: Mapping[str, Any], split: Split | None, kinds: Sequence[str]) -> list[str]:
    return [key for key in _spellings(split, kinds) if key in arrays]


def _find_split(arrays: Mapping[str, Any], name: str, split: Split) -> tuple[Split | None, str | None]:
    """The split to read, None where there are none, and a note where it is not the one that was asked for."""
    if available := _splits(arrays):
        return choose_split(available, split, name)
    if _found(arrays, None, _IMAGES):
        return None, undivided_note(name, split)
    found = ", ".join(repr(key) for key in arrays) or "no arrays"
    raise DataError(f"data {name!r}: {_EXPECTED}; found {found}")


def _image_key(arrays: Mapping[str, Any], name: str, split: Split | None) -> str:
    """The key of a split's images; DataError where other images could be meant as well."""
    keys = _found(arrays, split, _IMAGES)
    others = [] if split is None else _found(arrays, None, _IMAGES)
    if len(keys) + len(others) > 1:
        shown = " and ".join(map(repr, keys + others))
        raise DataError(f"data {name!r}: has {shown}, expected one array of images{' a split' if split else ''}")
    return keys[0]


def _unread(arrays: Mapping[str, Any], splits: tuple[Split, ...]) -> tuple[str, ...]:
    """A remark that names the arrays that mean nothing here, such as labels under another name."""
    known = {"class_names"}
    for split in splits or (None,):
        known |= {*_spellings(split, _IMAGES), *_found(arrays, split, _LABELS)[:1]}
    others = [repr(key) for key in arrays if key not in known]
    more = f", {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    return (f"not read: {', '.join(others[:_SHOWN])}{more}",) if others else ()


def _splits(arrays: Mapping[str, Any]) -> tuple[Split, ...]:
    return tuple(each for each in SPLITS if _found(arrays, each, _IMAGES))


def _read(arrays: Mapping[str, Any], key: str, name: str) -> npt.NDArray[Any]:
    return as_array(_get(arrays, key, name), f"data {name!r}: {key!r}")


def _get(arrays: Mapping[str, Any], key: str, name: str) -> Any:
    with user_code(DataError, f"data {name!r}: {key!r} can't be read:"):  # a mapping may be of the user's own
        return arrays[key]


def _class_names(arrays: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    if "class_names" not in arrays:
        return None
    names = np.asarray(_get(arrays, "class_names", name))
    if names.ndim != 1 or names.dtype.kind not in "US":
        shape = list(names.shape)
        raise DataError(f"data {name!r}: 'class_names' is {names.dtype} {shape}, expected one string per class")
    try:
        text = names.astype(np.str_)
        if text.size and text.view(np.uint32).max() > sys.maxunicode:
            raise ValueError("they hold what is no character")
        found = tuple(text.tolist())
        "".join(found).encode()
    except ValueError as error:  # bytes that are no ASCII, or halves of characters
        raise DataError(f"data {name!r}: 'class_names' are no text: {one_line(error)}") from None
    return found
