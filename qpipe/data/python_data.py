"""Data that Python code gives: arrays, iterables of batches, and `package.module:factory`.

uint8 arrays are images [N, H, W, C] and are preprocessed; float arrays are inputs as the network wants them, and so are
integers where its only input reads these.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qpipe.data.arrays import LABELS, StreamSource, as_array, split_item
from qpipe.data.inputs import Input, integers_name
from qpipe.data.named import open_named
from qpipe.data.npz import array_source, open_mapping
from qpipe.data.preprocess import Preprocess
from qpipe.data.samples import gives_samples, open_samples
from qpipe.data.source import Source, SourceInfo, Split
from qpipe.errors import DataError, user_code
from qpipe.factories import load_factory


def open_factory(
    spec: str, split: Split, preprocess: Preprocess, *, labels: bool = True, inputs: Sequence[Input] = ()
) -> Source:
    """The data that `package.module:factory`, called with split=..., returns. Raises DataError."""
    factory = load_factory(spec, DataError, called=f"data {spec!r}", makes="of split")
    return _call(factory, spec, split, preprocess, labels, inputs)


def open_python(
    data: Any,
    name: str,
    split: Split,
    preprocess: Preprocess,
    *,
    labels: bool = True,
    inputs: Sequence[Input] = (),
) -> Source:
    """The source for an object: see `open_data` for what it may be. Raises DataError."""
    if isinstance(data, Source):
        return data
    info = SourceInfo(name, preprocess, reads_labels=labels)
    if isinstance(data, Mapping):
        return open_mapping(data, name, split, preprocess, labels=labels, inputs=inputs)
    if hasattr(data, "__array__"):
        return _in_memory(info, as_array(data, f"data {name!r}"), None, split, inputs)
    if _is_pair(data, f"data {name!r}"):
        return _in_memory(info, as_array(data[0], f"data {name!r}"), data[1], split, inputs)
    if isinstance(data, list | tuple):
        return _joined(info, data, split, inputs)
    if gives_samples(data):
        return open_samples(data, info, inputs)
    if callable(data) and not isinstance(data, Iterable):
        return _call(data, name, split, preprocess, labels, inputs)
    if not isinstance(data, Iterable) or isinstance(data, str | bytes):
        raise DataError(f"data {name!r}: {type(data).__name__} is neither arrays nor an iterable of them")
    return StreamSource(info, data, integers=integers_name(inputs))


def _in_memory(
    info: SourceInfo, values: npt.NDArray[Any], labels: Any, split: Split, inputs: Sequence[Input]
) -> Source:
    """Images or floats; for a network that reads integers alone, these by its name of them."""
    name = integers_name(inputs)
    if name is None:
        return array_source(info, values, labels, inputs=inputs)
    arrays = {name: values} if labels is None else {name: values, LABELS: labels}
    return open_named(arrays, info.name, split, info.preprocess, inputs, labels=info.reads_labels)


def _call(
    factory: Callable[..., Any],
    name: str,
    split: Split,
    preprocess: Preprocess,
    labels: bool,
    inputs: Sequence[Input],
) -> Source:
    try:
        inspect.signature(factory).bind(split=split)
    except TypeError:
        raise DataError(f"data {name!r}: the factory must take split=..., it is called with nothing else") from None
    except ValueError:  # a builtin without a signature: the call itself will tell
        pass
    with user_code(DataError, f"data {name!r}: the factory raised"):
        data = factory(split=split)
    return open_python(data, name, split, preprocess, labels=labels, inputs=inputs)


def _is_pair(data: Any, called: str) -> bool:
    """Whether this is (inputs, labels): a tuple of an array and of one label per sample (or None).

    Labels can be of any shape, so that a tuple of two arrays of one length is such a pair; batches come in a list.
    """
    if not isinstance(data, tuple) or len(data) != 2 or data[0] is None:
        return False
    if data[1] is None:
        return True
    if not hasattr(data[0], "__array__"):
        return False
    inputs, labels = as_array(data[0], called), as_array(data[1], called)
    return labels.ndim == 1 or (labels.ndim > 1 and inputs.ndim > 0 and len(labels) == len(inputs))


def _joined(info: SourceInfo, items: list[Any] | tuple[Any, ...], split: Split, inputs: Sequence[Input]) -> Source:
    """One source of a list of batches, which are in memory anyhow: so it has a length, and can be shuffled."""
    if not items:
        raise DataError(f"data {info.name!r}: the list is empty, expected arrays or (inputs, labels)")
    called = f"data {info.name!r}"
    pairs = [split_item(item, called) for item in items]
    parts = [as_array(values, called) for values, _ in pairs]
    labels = [as_array(each, f"{called}: labels") for _, each in pairs if each is not None and info.reads_labels]
    if any(array.ndim == 0 for array in parts):
        raise DataError(f"{called}: a batch has shape [], expected [N, ...]")
    shapes = {array.shape[1:] for array in parts}
    if len(shapes) > 1 or len({array.dtype for array in parts}) > 1:
        shown = " and ".join(sorted({f"{array.dtype} {list(array.shape[1:])}" for array in parts}))
        raise DataError(f"data {info.name!r}: batches of {shown}, expected one type and shape")
    if len(labels) not in (0, len(parts)):
        raise DataError(f"data {info.name!r}: {len(labels)} of {len(parts)} batches have labels, expected all or none")
    if len({each.shape[1:] for each in labels}) > 1:
        shown = " and ".join(sorted({str(list(each.shape[1:])) for each in labels}))
        raise DataError(f"data {info.name!r}: labels of shapes {shown}, expected one shape")
    joined_labels = np.concatenate([np.atleast_1d(each) for each in labels]) if labels else None
    return _in_memory(info, np.concatenate(parts), joined_labels, split, inputs)
