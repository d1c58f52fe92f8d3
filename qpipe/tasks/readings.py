"""How an output and labels can go together: a table from the losses to what each expects of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from qpipe.tasks.labels import LabelFacts
from qpipe.tasks.outputs import OutputFacts


@dataclass(frozen=True)
class Reading:
    """One output read for one loss. columns: classes, or numbers of an image. metric: what judges it by default.

    is_exact: whether there are exactly as many columns as classes. is_natural: whether nothing else comes to mind; else
    it has to be asked for.
    """

    output: OutputFacts
    loss: str
    metric: str
    columns: int
    is_dense: bool = False
    class_axis: int = 1
    is_exact: bool = True
    is_natural: bool = True


def cross_entropy(output: OutputFacts, labels: LabelFacts) -> Reading | None:
    """Scores `[N, classes]` or `[N, classes, ...]`, or classes that the network chose, and one class for each."""
    if output.shape is None or output.ends.disguised is not None:
        return None
    if labels.is_one_hot and labels.shape == output.plain_shape and not output.is_integer:
        is_natural = output.ends.link == "softmax"
        return Reading(output, "cross-entropy", "top-1", labels.shape[0], is_natural=is_natural)
    if not labels.is_whole or labels.smallest < 0:
        return None
    if output.is_integer:
        return _of_choices(output, labels)
    is_one = output.rows is not None and not labels.shape
    axes = _class_axes(output.shape, labels.shape) if labels.shape else {1: output.rows} if is_one else {}
    for axis, columns in axes.items():
        if labels.shape and output.ends.over not in (None, axis):
            continue  # a Softmax along a row of the image
        if columns is not None and columns > 1 and labels.classes <= columns:
            metric, is_exact = "miou" if labels.shape else "top-1", labels.classes == columns
            return Reading(output, "cross-entropy", metric, columns, bool(labels.shape), axis, is_exact)
    return None


def _of_choices(output: OutputFacts, labels: LabelFacts) -> Reading | None:
    """Classes by ArgMax, or the best ones, in order, by TopK."""
    is_ranking = not labels.shape and len(output.plain_shape) == 1
    if output.ends.choice is None or not (is_ranking or output.plain_shape == labels.shape):
        return None
    metric = "miou" if labels.shape else "top-1"
    return Reading(output, "cross-entropy", metric, labels.classes, bool(labels.shape), output.ends.axis or 1)


def _class_axes(output: tuple[int, ...], label: tuple[int, ...]) -> dict[int, int]:
    """The axes, of the batch's tensor, without which a shape, but for sizes of 1, is a label's; and their sizes."""
    found = {}
    for axis in dict.fromkeys((0, len(output) - 1)):
        rest = tuple(size for i, size in enumerate(output) if i != axis and size != 1)
        if output and rest == label:
            found[axis + 1] = output[axis]
    return found


def binary(output: OutputFacts, labels: LabelFacts) -> Reading | None:
    """One number for each image or pixel, and labels of 0 and 1."""
    fits = output.shape is not None and output.plain_shape == labels.shape and labels.is_binary
    if not fits or output.is_integer or not _is_yes_or_no(output) or len(labels.shape) == 1:
        return None
    return Reading(output, "binary", "miou" if labels.shape else "accuracy", 1, bool(labels.shape))


def _is_yes_or_no(output: OutputFacts) -> bool:
    """Whether its numbers are scores, yes above 0, or their probabilities by a Sigmoid."""
    ends = output.ends
    return ends.disguised is None and ends.link != "softmax" and (ends.link is not None or not ends.is_positive)


def multi_label(output: OutputFacts, labels: LabelFacts) -> Reading | None:
    """Several numbers for each image, and rows of 0 and 1 as long."""
    fits = output.shape is not None and output.plain_shape == labels.shape and len(labels.shape) == 1
    if not fits or not labels.is_binary or output.is_integer:
        return None
    if not _is_yes_or_no(output):
        return None
    return Reading(output, "multi-label", "f1", labels.shape[0])


def mse(output: OutputFacts, labels: LabelFacts) -> Reading | None:
    """Numbers in the shape of the labels; whole ones could be classes as well."""
    if output.shape is None or output.plain_shape != labels.shape or output.is_integer or labels.named:
        return None
    count = labels.shape[0] if len(labels.shape) == 1 else 1
    is_natural = not labels.is_whole or (len(labels.shape) == 1 and not labels.is_binary) or len(labels.shape) > 2
    return Reading(output, "mse", "mse", count, bool(labels.shape[1:]), is_natural=is_natural)


READINGS: Final[dict[str, Callable[[OutputFacts, LabelFacts], Reading | None]]] = {
    "cross-entropy": cross_entropy,
    "binary": binary,
    "multi-label": multi_label,
    "mse": mse,
}
