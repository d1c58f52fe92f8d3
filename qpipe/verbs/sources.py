"""Data for a model: the preprocessing that it carries, overridden by what the caller says."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir

from qpipe.data import DataLike, Preprocess, Source, Split, check_fits, open_data
from qpipe.data.carried import carried_preprocess
from qpipe.data.inputs import inputs_of
from qpipe.errors import DataError, LoweringError, ModelError
from qpipe.ir.files.metadata import get_input_sha256, set_input_sha256
from qpipe.nodes import describe
from qpipe.ops.prologue import find_prologue
from qpipe.progress import say, tell

PreprocessLike = Preprocess | Mapping[str, Any] | None
ModelPath = str | os.PathLike[str]


def model_name(model: object) -> str:
    """What messages call a model: its path, or "the model"."""
    return os.fspath(model) if isinstance(model, str | os.PathLike) else "the model"


@contextmanager
def about(name: str, *others: str) -> Iterator[None]:
    """Let a ModelError or LoweringError about something in a graph name the file as well, where it doesn't yet.

    others: files that such an error may be about instead.
    """
    try:
        yield
    except (ModelError, LoweringError) as error:
        text = str(error)
        if name in text or any(text.startswith(other) or f"'{other}'" in text for other in others):
            raise
        raise type(error)(f"{name}: {error}") from error


def preprocess_of(model: ir.Model, overrides: PreprocessLike) -> Preprocess:
    """The model's own preprocessing, with the overrides' fields replaced; DataError on a wrong one.

    Its own is what it carries, or else what the head of its graph expects: pixels from 0 to 255 where it scales them
    itself, channels last where it moves them. So this is to be asked before a graph is normalized.
    """
    if isinstance(overrides, Preprocess):
        return overrides
    if not isinstance(overrides, Mapping | None):
        raise DataError(f"preprocess: {overrides!r}, expected a mapping of settings, such as {{'mean': (0.5,)}}")
    return (carried_preprocess(model) or _expected_by(model, overrides or {})).merge(overrides or {})


def _expected_by(model: ir.Model, overrides: Mapping[str, Any]) -> Preprocess:
    prologue = find_prologue(model.graph)
    if prologue is None:
        return Preprocess()
    found = Preprocess(
        pixel_max=255.0 if prologue.takes_bytes else 1.0, layout="NHWC" if prologue.channels_last else "NCHW"
    )
    if prologue.affine:
        names = ", ".join(map(describe, prologue.affine))
        say(f"the network normalizes its input itself ({names}): it takes pixels from 0 to {found.pixel_max:.0f}")
        if any(overrides.get(key) is not None for key in ("mean", "std")):
            say("mean and std come on top of that")
    return found


def store_origin_file(model: ir.Model, path: object) -> None:
    """Let the model carry the hash of the file that everything started from, unless it knows one already."""
    if get_input_sha256(model) is None and isinstance(path, str | os.PathLike) and Path(path).is_file():
        set_input_sha256(model, hashlib.sha256(Path(path).read_bytes()).hexdigest())


def open_source(
    model: ir.Model, data: DataLike, split: Split, preprocess: Preprocess, *, labels: bool = True
) -> Source:
    """The data, checked against the model's inputs. labels: are they read."""
    inputs = inputs_of(model.graph)
    source = open_data(data, split, preprocess, labels=labels, inputs=inputs)
    tell(source.found)
    check_fits(source, inputs)
    return source
