"""Labels, pixels and shapes that can't be used: each a DataError of one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qpipe.data.inputs import Input, fitted
from qpipe.data.source import Labels, Source
from qpipe.errors import DataError

_COLORS = (1, 3, 4)


def check_labels(labels: Any, count: int, classes: int | None, name: str) -> Labels:
    """Return labels `[N, ...]` as int64, or float32 of floats: one of whatever kind for each sample.

    Whether they fit a network is for its task to say (`qpipe/tasks/`). `classes`: how many names the data have; one
    label for each sample is one of these then.
    """
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind not in "iufb":
        raise DataError(f"{name}: labels are {array.dtype}, expected numbers")
    if array.ndim == 0 or len(array) != count:
        raise DataError(f"{name}: {len(array) if array.ndim else 1} labels for {count} samples")
    with np.errstate(over="ignore"):  # beyond float32 it is as infinite as inf
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    if (wrong := ~np.isfinite(array)).any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise DataError(f"{name}: label {index[0]} is {array[index]}, expected finite")
    if classes is not None and array.ndim == 1 and (wrong := (array < 0) | (array >= classes)).any():
        index = (int(np.argmax(wrong)),)
        raise DataError(f"{name}: label {index[0]} is {array[index]:g}, expected 0 to {classes - 1}")
    return array


def check_pixels(images: npt.NDArray[np.uint8], name: str) -> None:
    """Raise DataError unless uint8 images are [N, H, W, C] with at least one sample and one pixel."""
    if images.ndim != 4:
        raise DataError(f"{name}: images have shape {list(images.shape)}, expected [N, H, W, C]")
    _check_filled(images, name)


def check_floats(values: npt.NDArray[Any], name: str) -> None:
    """Raise DataError unless the values are finite floats [N, ...] with at least one sample."""
    if values.dtype.kind != "f":
        codes = "; of codes the real numbers that they stand for" if values.dtype in (np.int8, np.int16) else ""
        raise DataError(f"{name}: values are {values.dtype}, expected float values or uint8 pixels{codes}")
    if values.ndim < 2:
        raise DataError(f"{name}: values have shape {list(values.shape)}, expected [N, C, H, W]")
    _check_filled(values, name)
    check_finite(values, name)


def check_finite(values: npt.NDArray[Any], name: str) -> None:
    """Raise DataError where a float value is not finite as float32."""
    with np.errstate(over="ignore"):  # a float64 beyond float32 is as infinite to the network as inf
        finite = np.isfinite(values.astype(np.float32, copy=False))
    if not finite.all():
        index = tuple(int(i) for i in np.unravel_index(int(np.argmin(finite)), values.shape))
        raise DataError(
            f"{name}: sample {index[0]} has the value {values[index]} at {list(index[1:])}, expected finite"
        )


def _check_filled(array: npt.NDArray[Any], name: str) -> None:
    if array.size == 0:
        raise DataError(f"{name}: shape is {list(array.shape)}, expected at least one sample and one value in it")


def check_fits(source: Source, inputs: Sequence[Input]) -> None:
    """Raise DataError unless the data fit a model's inputs; any batch does, and any size of an open dimension."""
    if source.sample_shapes:
        types = {each.name: each.dtype for each in inputs}
        # Only shapes are compared here. Of a single input the name doesn't count.
        only = inputs[0].dtype if len(inputs) == 1 else None
        one = {name: np.empty((1, *shape), types.get(name, only)) for name, shape in source.sample_shapes.items()}
        fitted(one, inputs, f"data {source.name!r}")
        return
    if len(inputs) != 1:
        names = ", ".join(f"'{each.name}'" for each in inputs) or "none"
        raise DataError(f"data {source.name!r}: one array, the network's inputs are {names}: expected one by each name")
    if inputs[0].shape is None:
        return
    wanted = [dim if isinstance(dim, int) else None for dim in inputs[0].shape]
    found = (None, *source.image_shape)
    if len(found) == len(wanted) + 1 and wanted[0] is not None:
        wanted.insert(0, None)
    if len(found) != len(wanted) or any(b not in {a, None} for a, b in zip(found[1:], wanted[1:], strict=True)):
        raise DataError(
            f"data {source.name!r}: inputs have shape {shown_shape(found)}, the model expects {shown_shape(wanted)}"
            f"{_hint(source.image_shape, wanted[1:])}"
        )


def shown_shape(shape: Sequence[int | None]) -> str:
    """Such as "[N, 3, 32, 32]": None is any number."""
    return "[" + ", ".join("N" if dim is None else str(dim) for dim in shape) + "]"


def _hint(found: Sequence[int], wanted: Sequence[int | None]) -> str:
    if len(found) != 3 or len(wanted) != 3:
        return ""
    a, b, c = found
    if list(wanted) in ([b, c, a], [c, a, b]):
        # An array of [N, C, H, W] is read as [N, H, W, C]; to set the layout would let its pixels be taken for rows.
        is_turned = list(wanted) == [b, c, a] and b in _COLORS and a not in _COLORS
        return (
            "; give [N, H, W, C], the data have their channels first"
            if is_turned
            else "; set the preprocessing's layout"
        )
    return "; set the preprocessing's resize and crop" if a == wanted[0] else ""
