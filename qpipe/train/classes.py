"""Whether the data have as many classes as the network: asked before a run, not found out by it."""

from __future__ import annotations

import torch

from qpipe.data import Source
from qpipe.errors import DataError
from qpipe.train.executor import Executor


def check_classes(executor: Executor, source: Source) -> None:
    """Raise DataError where there are no labels, or more or fewer classes than the network has outputs.

    Data without class names have the classes from 0 to their largest label. A stream is not known before it is read.
    """
    if source.size is None:
        return
    if source.labels is None:
        raise DataError(f"{source.name}: no labels, expected one for each image")
    largest = int(source.labels.max())
    classes = len(source.class_names) if source.class_names is not None else largest + 1
    outputs = _outputs(executor, source)
    if classes != outputs:
        raise DataError(
            f"{source.name}: {classes} classes (the largest label is {largest}), but the network has {outputs} classes"
        )


def check_label(largest: int, outputs: int, name: str) -> None:
    """Raise DataError for a label of a stream that the network has no output for."""
    if largest >= outputs:
        raise DataError(f"{name}: label {largest}, but the network has {outputs} classes")


@torch.no_grad()
def _outputs(executor: Executor, source: Source) -> int:
    logits: torch.Tensor = executor(torch.zeros(1, *source.image_shape))[0]
    return logits.flatten(1).shape[1]
