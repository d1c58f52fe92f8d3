"""Accuracy and agreement of any number of models, in one pass over the data.

The models run batch by batch on the same images, so that nothing is kept but counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from qpipe.data import Batch
from qpipe.errors import DataError, ModelError
from qpipe.runtime.outputs import Output, integers_equal, run_batch
from qpipe.runtime.session import AnyModel, Array, as_session, session_name

TOP: Final = 5


@dataclass(frozen=True)
class ModelAccuracy:
    """One model's figures, fractions of 1.

    top1, top5: None without labels (top5 also where there are five classes or fewer). agreement: how often its first
    choice is the first model's. largest_difference: of any output from the first model's, in real units.
    """

    name: str
    top1: float | None
    top5: float | None
    agreement: float | None
    largest_difference: float | None


@dataclass(frozen=True)
class AccuracyReport:
    """count: of images; models: in the order given; different: [i][j], how many images models i and j differ on."""

    count: int
    models: tuple[ModelAccuracy, ...]
    different: tuple[tuple[int, ...], ...]


@dataclass
class _Tally:
    """Counts of one model, over the images so far."""

    session: ort.InferenceSession
    top1: int = 0
    top5: int = 0
    agreed: int = 0
    largest_difference: float = 0.0
    classes: int = 0


def measure_accuracy(
    models: Sequence[AnyModel | ort.InferenceSession], batches: Iterable[Batch], *, threads: int | None = None
) -> AccuracyReport:
    """Run every model on every batch and count.

    Models take float32 inputs or uint8 pixels, and give float or int32 logits [N, classes] (trailing dimensions of one
    are dropped). The class is the first output's largest value, the first of equals; or the integer [N] that it is
    itself. Raises DataError where there are no images, labels are missing for a part of them, or a label has no class;
    ModelError as the session does.
    """
    if not models:
        raise ModelError("no models to measure; expected one or more")
    tallies = [_Tally(as_session(model, threads)) for model in models]
    different = np.zeros((len(models), len(models)), np.int64)
    count, labelled = 0, 0
    for batch in batches:
        outputs = [run_batch(tally.session, batch) for tally in tallies]
        first_choice = _choice(outputs[0][0])
        for index, (tally, output) in enumerate(zip(tallies, outputs, strict=True)):
            tally.agreed += int((_choice(output[0]) == first_choice).sum())
            tally.largest_difference = max(tally.largest_difference, _difference(tallies[0], outputs[0], tally, output))
            for other in range(index):
                different[index, other] += _count_different(output, outputs[other])
            if batch.labels is not None:
                _count_labels(tally, output[0], batch.labels)
        count += len(batch.inputs)
        labelled += len(batch.inputs) if batch.labels is not None else 0
    if not count:
        raise DataError("no images to measure on; expected one or more")
    if labelled not in (0, count):
        raise DataError(f"{labelled} of {count} images have labels; expected all or none")
    different += different.T
    figures = tuple(_figures(tally, count, labelled > 0) for tally in tallies)
    return AccuracyReport(count, figures, tuple(tuple(int(value) for value in row) for row in different))


def _scores(output: Output) -> Array:
    """[N, classes] in the output's own units, in which the order is exact."""
    return output.values.reshape(len(output.values), -1)


def _choice(output: Output) -> npt.NDArray[np.int64]:
    choice: npt.NDArray[np.int64] = output.values if output.is_choice else _scores(output).argmax(axis=1)
    return choice


def _count_labels(tally: _Tally, output: Output, labels: Array) -> None:
    shape = output.values.shape
    if output.is_choice and len(labels) == shape[0]:
        tally.top1 += int((output.values == labels).sum())
        return
    if len(shape) < 2 or any(size != 1 for size in shape[2:]):
        raise ModelError(f"{session_name(tally.session)}: output has shape {list(shape)}, expected [N, classes]")
    if len(labels) != shape[0]:
        raise DataError(f"{len(labels)} labels for {shape[0]} images; expected one for each")
    if labels.min() < 0 or labels.max() >= shape[1]:
        raise DataError(
            f"labels go from {labels.min()} to {labels.max()}, but {session_name(tally.session)} has {shape[1]} "
            f"classes; expected labels from 0 to {shape[1] - 1}"
        )
    scores = _scores(output)
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    # A rank without sorting; of equal scores the lower class comes first, as in argmax.
    earlier = np.arange(shape[1])[None, :] < labels[:, None]
    rank = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    tally.classes = shape[1]
    tally.top1 += int((rank == 0).sum())
    tally.top5 += int((rank < TOP).sum())


def _difference(first: _Tally, reference: list[Output], tally: _Tally, outputs: list[Output]) -> float:
    """Largest absolute difference over all outputs."""
    expected = [list(output.values.shape) for output in reference]
    found = [list(output.values.shape) for output in outputs]
    if expected != found:
        names = session_name(tally.session), session_name(first.session)
        raise ModelError(f"{names[0]}: outputs have shapes {found}, but those of {names[1]} have {expected}")
    pairs = zip(reference, outputs, strict=True)
    return max(float(np.abs(one.real().astype(np.float64) - other.real()).max()) for one, other in pairs)


def _count_different(one: list[Output], other: list[Output]) -> int:
    equal = [integers_equal(left, right) for left, right in zip(one, other, strict=True)]
    return int((~np.logical_and.reduce(equal)).sum())


def _figures(tally: _Tally, count: int, labelled: bool) -> ModelAccuracy:
    top5 = tally.top5 / count if labelled and tally.classes > TOP else None
    top1 = tally.top1 / count if labelled else None
    return ModelAccuracy(session_name(tally.session), top1, top5, tally.agreed / count, tally.largest_difference)
