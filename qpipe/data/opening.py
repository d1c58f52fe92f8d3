"""`open_data`: what `data` is, told from its form."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from qpipe.data.inputs import Input
from qpipe.data.preprocess import Preprocess
from qpipe.data.source import SPLITS, Source, Split
from qpipe.errors import DataError
from qpipe.factories import names_factory

DataLike = (
    str
    | Path
    | Source
    | npt.NDArray[Any]
    | tuple[npt.NDArray[Any], npt.NDArray[Any]]
    | Mapping[str, npt.NDArray[Any]]
    | Iterable[Any]
    | Callable[..., Any]
)


def open_data(
    data: DataLike,
    split: Split = "train",
    preprocess: Preprocess | None = None,
    *,
    labels: bool = True,
    inputs: Sequence[Input] = (),
) -> Source:
    """Open one split of the data.

    `data` is one of

    - a folder of class folders of images, below `train`, `val` and `test` where there are splits;
    - an `.npz` file: `images` uint8 [N, H, W, C] and `labels` [N, ...], or `train_images`, `train_labels`, ...; `x`
      [N, H, W, C] gets the preprocessing's mean, std and layout;
    - an `.npy` file: uint8 images [N, H, W, C], or float inputs, taken as they are;
    - "digits": scikit-learn's digits, uint8 [N, 8, 8, 1];
    - "package.module:factory", or a function: called with split=..., returns any of what follows;
    - an array, (inputs, labels), a mapping with the keys of an `.npz`, or an iterable of arrays or of (inputs, labels):
      uint8 images [N, H, W, C], or float inputs, taken as they are. Lists are joined; any other iterable is a stream;
    - a torch or Hugging Face `Dataset`, or what gives samples by their numbers likewise; a `DataLoader` is an iterable;
    - a Source, returned as it is.

    For a network of several inputs an `.npz`, a mapping, or a folder of `NAME.npy` has an array for each by its name;
    `inputs` are these.

    Data without splits give all their samples as every split, and "val" and "test" stand in for each other;
    `Source.split_note` then says so. `labels`: False reads and checks none. Raises DataError.
    """
    if split not in SPLITS:
        raise DataError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    settings = preprocess or Preprocess()
    if not isinstance(data, str | Path):
        from qpipe.data.python_data import open_python

        return open_python(data, "given from Python", split, settings, labels=labels, inputs=inputs)
    path = Path(data)
    # Of os.path, which takes any text: a name with a NUL, or one that is too long, is no file.
    if os.path.isdir(path):
        from qpipe.data.folder import open_folder
        from qpipe.data.named import NpyFolder, open_named

        if inputs and (arrays := NpyFolder(path)):
            return open_named(arrays, str(path), split, settings, inputs, labels=labels)
        return open_folder(path, split, settings)
    if os.path.isfile(path) and path.suffix.lower() == ".npy":
        from qpipe.data.named import load_npy
        from qpipe.data.python_data import open_python

        return open_python(load_npy(path), str(path), split, settings, labels=labels, inputs=inputs)
    if os.path.isfile(path):
        from qpipe.data.npz import open_npz

        return open_npz(path, split, settings, labels=labels, inputs=inputs)
    if data == "digits":
        from qpipe.data.digits import open_digits

        return open_digits(split, settings)
    if isinstance(data, str) and names_factory(data):
        from qpipe.data.python_data import open_factory

        return open_factory(data, split, settings, labels=labels, inputs=inputs)
    problem = "are neither a folder nor a file" if os.path.exists(path) else "don't exist"
    raise DataError(
        f"data '{data}' {problem}: expected a folder of class folders, an .npz file, 'digits' or "
        "'package.module:factory'"
    )
