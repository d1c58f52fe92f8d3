"""What a network reads of some samples: an array for its only input, or an array by the name of each of several.

The first axis of every array counts the samples. Where a network's inputs agree on their first dimension, that is the
batch: a sample is a row of each. Else (a recurrent state `[2, N, 128]` beside a frame `[N, 512]`, a scalar) a sample is
one whole input of each, and a network runs it by itself: an array has a dimension more than the input then, which may
be left out where the input's first dimension is 1 or open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from qpipe.errors import DataError

if TYPE_CHECKING:
    import onnx_ir as ir

Array = npt.NDArray[Any]
Inputs = Array | Mapping[str, Array]

_WIDE: Final = 4
"""Bytes of an integer that counts or names things; narrower ones are codes, which no other type stands for."""


@dataclass(frozen=True)
class Input:
    """What a network takes: its shape (a number, or the name or None of an open dimension), None of unknown rank."""

    name: str
    shape: tuple[int | str | None, ...] | None
    dtype: np.dtype[Any]

    @property
    def words(self) -> str:
        """Such as "'x' takes float32 [batch, 3, 32, 32]"."""
        sizes = "?" if self.shape is None else ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"'{self.name}' takes {self.dtype} [{sizes}]"


@dataclass(frozen=True)
class Form:
    """How samples become runs. is_batched: whether a sample is a row. size: of one run, None where it may be any."""

    is_batched: bool
    size: int | None


def inputs_of(graph: ir.Graph) -> tuple[Input, ...]:
    """A graph's inputs; float32 where the type is unknown."""
    from qpipe.ir.files.sizes import dims_of  # onnx, which data know nothing of

    return tuple(
        Input(str(v.name), dims_of(v), np.dtype(np.float32 if v.dtype is None else v.dtype.numpy()))
        for v in graph.inputs
    )


def form_of(inputs: Sequence[Input]) -> Form:
    """By what the inputs declare."""
    firsts = {_first(each) for each in inputs if each.shape is not None}
    if len(firsts) > 1 or any(each.shape == () for each in inputs):
        return Form(False, 1)
    return Form(True, next(iter(firsts), None))


def count_of(inputs: Inputs) -> int:
    """How many samples."""
    return len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)


def arrays_of(inputs: Inputs) -> list[Array]:
    """All arrays, in the order of the inputs."""
    return list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]


def integers_name(inputs: Sequence[Input]) -> str | None:
    """What a network's only input is called, where it reads integers such as tokens; bytes may be pixels."""
    if len(inputs) != 1 or inputs[0].dtype.kind not in "iu" or inputs[0].dtype == np.uint8:
        return None
    return inputs[0].name


def part_of(inputs: Inputs, which: slice | npt.NDArray[np.int64]) -> Inputs:
    """Some of the samples."""
    return rows_of(inputs, which) if isinstance(inputs, Mapping) else inputs[which]


def rows_of(arrays: Mapping[str, Array], which: slice | int | npt.NDArray[np.int64]) -> dict[str, Array]:
    """The same of each array."""
    return {name: np.asarray(array[which]) for name, array in arrays.items()}


def joined(parts: Sequence[Inputs]) -> Inputs:
    """All samples of several, which are of one kind."""
    first = parts[0]
    if isinstance(first, Mapping):
        return {name: np.concatenate([part[name] for part in parts]) for name in first}
    return np.concatenate(parts)  # type: ignore[arg-type]


def by_name(inputs: Inputs, names: Sequence[str], called: str) -> dict[str, Array]:
    """An array for each name; `called` is what messages call the network. Raises DataError where one is missing.

    Of a single array, or a single name, the name doesn't count.
    """
    if not isinstance(inputs, Mapping):
        if len(names) == 1:
            return {names[0]: inputs}
        raise DataError(f"{called}: inputs are {_shown(names)}, the data have one array; expected one by each name")
    if len(names) == len(inputs) == 1:
        return {names[0]: next(iter(inputs.values()))}
    for name in names:
        if name not in inputs:
            raise DataError(f"{called}: no data for input '{name}', expected {_shown(names)}, found {_shown(inputs)}")
    return {name: inputs[name] for name in names}


def fitted(inputs: Inputs, wanted: Sequence[Input], called: str) -> tuple[dict[str, Array], Form]:
    """The samples as a network takes them, rows or whole inputs; DataError where they don't fit it."""
    arrays = by_name(inputs, [each.name for each in wanted], called)
    form = form_of(wanted)
    if any(_first(each) not in (None, 1) and arrays[each.name].ndim == _rank(each) + 1 for each in wanted):
        form = Form(False, 1)
    found = {}
    for each in wanted:
        array, is_own = arrays[each.name], _first(each) in (None, 1) and each.shape != ()
        samples = _typed(array, each)
        # An axis of 1 may be there or not.
        if samples is not None and form.is_batched and is_own and array.ndim == _rank(each) + 1 and array.shape[1] == 1:
            samples = samples[:, 0]
        elif samples is not None and not form.is_batched and is_own and array.ndim == _rank(each):
            samples = samples[:, None]
        if samples is None or not len(samples) or not _fits(samples.shape[1:], each, form):
            raise DataError(f"{called}: input {each.words}, the data are {array.dtype} {list(array.shape)}")
        found[each.name] = samples
    return found, form


def _first(each: Input) -> int | None:
    """The first size, None where it is open or there is none."""
    return each.shape[0] if each.shape and isinstance(each.shape[0], int) else None


def _rank(each: Input) -> int:
    """The number of dimensions; where it is unknown, of no array."""
    return -2 if each.shape is None else len(each.shape)


def _typed(array: Array, wanted: Input) -> Array | None:
    """The same numbers in the network's type, None where that is another kind of number."""
    if array.dtype == wanted.dtype:
        return array
    is_index = array.dtype.kind in "iu" and wanted.dtype.kind in "iu" and wanted.dtype.itemsize >= _WIDE
    # A Cast of it may have become the network's own.
    is_count = array.dtype.kind in "iu" and wanted.dtype.kind == "f" and array.dtype.itemsize >= _WIDE
    return array.astype(wanted.dtype) if is_index or is_count else None


def _fits(sizes: Sequence[int], wanted: Input, form: Form) -> bool:
    if wanted.shape is None:
        return True
    expected = wanted.shape[1:] if form.is_batched else wanted.shape
    return len(expected) == len(sizes) and all(
        want == have for want, have in zip(expected, sizes, strict=True) if isinstance(want, int)
    )


def _shown(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
