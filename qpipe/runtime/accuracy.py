"""Metrics and agreement of any number of models, in one pass over the data.

The models run batch by batch on the same images, so that nothing is kept but counts.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from qpipe.data import Batch
from qpipe.errors import DataError, ModelError
from qpipe.runtime.outputs import Output, floats_near, integers_equal, run_batch
from qpipe.runtime.session import AnyModel, as_session, fixed_batch, session_name
from qpipe.tasks.metrics import metric_of
from qpipe.tasks.metrics.base import Metric
from qpipe.tasks.task import CLASSES, Task

VALUES = 2**24
"""What all models read in one run: what they compute of it is many times as large, and is to fit into memory."""


@dataclass(frozen=True)
class ModelAccuracy:
    """One model's figures.

    metric: the task's; None without labels. also: what it tells besides, `top1` and `top5` of classes, fractions of 1.
    agreement: how often its answer is the first model's, None where answers are no choices. largest_difference: of any
    output from the first model's, in real units.
    """

    name: str
    metric: float | None
    agreement: float | None
    largest_difference: float | None
    also: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def top1(self) -> float | None:
        """Of 1; None without labels, and of other tasks."""
        return self.also.get("top1")

    @property
    def top5(self) -> float | None:
        """Of 1; None where there are five classes or fewer too."""
        return self.also.get("top5")


@dataclass(frozen=True)
class AccuracyReport:
    """count: of images; models: in the order given; different: [i][j], how many images models i and j differ on."""

    count: int
    models: tuple[ModelAccuracy, ...]
    different: tuple[tuple[int, ...], ...]


@dataclass
class _Tally:
    """Counts of one model, over the images so far. agreed: in images, of dense answers their shares summed up."""

    session: ort.InferenceSession
    metric: Metric | None
    agreed: float = 0.0
    largest_difference: float = 0.0


def measure_accuracy(
    models: Sequence[AnyModel | ort.InferenceSession],
    batches: Iterable[Batch],
    *,
    threads: int | None = None,
    task: Task = CLASSES,
    has_tail: bool = False,
) -> AccuracyReport:
    """Run every model on every batch and count.

    has_tail: whether floats are what a float tail gives, which may differ by roundings.

    Models take float32 inputs or uint8 pixels, and give floats or int32 fixed point. A class is the largest value of
    the output that counts, the first of equals; or the integer [N] that it is itself. Raises DataError where there are
    no images, labels are missing for a part of them, or a label has no class; ModelError as the session does.
    """
    if not models:
        raise ModelError("no models to measure; expected one or more")
    sessions = [as_session(model, threads) for model in models]
    tallies = [_Tally(session, metric_of(task, session_name(session))) for session in sessions]
    different = np.zeros((len(models), len(models)), np.int64)
    count, labelled = 0, 0
    for batch in itertools.chain.from_iterable(_parts(batch, sessions) for batch in batches):
        outputs = [run_batch(tally.session, batch) for tally in tallies]
        first = _answers(outputs[0], task)
        for index, (tally, output) in enumerate(zip(tallies, outputs, strict=True)):
            # First, as it refuses outputs of other shapes.
            found = _difference(tallies[0], outputs[0], tally, output, len(batch))
            tally.largest_difference = max(tally.largest_difference, found)
            if first is not None and (own := _answers(output, task)) is not None:
                tally.agreed += float((own == first).reshape(len(batch), -1).mean(axis=1).sum())
            for other in range(index):
                different[index, other] += _count_different(output, outputs[other], len(batch), has_tail)
            if batch.labels is not None and tally.metric is not None:
                tally.metric.add(_judged(output[task.position], tally.metric), batch.labels)
        count += len(batch)
        labelled += len(batch) if batch.labels is not None else 0
    if not count:
        raise DataError("no images to measure on; expected one or more")
    if labelled not in (0, count) and task.metric is not None:
        raise DataError(f"{labelled} of {count} images have labels; expected all or none")
    different += different.T
    has_answers = first is not None
    figures = tuple(_figures(tally, count, labelled > 0, has_answers) for tally in tallies)
    return AccuracyReport(count, figures, tuple(tuple(int(value) for value in row) for row in different))


def _parts(batch: Batch, sessions: Sequence[ort.InferenceSession]) -> Iterator[Batch]:
    """A batch as large as memory takes: of large images few at a time, but what a fixed batch asks for."""
    arrays = list(batch.inputs.values()) if isinstance(batch.inputs, Mapping) else [batch.inputs]
    values = sum(array.size for array in arrays) * len(sessions) // max(len(batch), 1)
    fixed = max(fixed_batch(session) or 1 for session in sessions)
    rows = max(VALUES // max(values, 1) // fixed, 1) * fixed
    for begin in range(0, len(batch), rows):
        yield batch.part(slice(begin, begin + rows))


def _judged(output: Output, metric: Metric) -> npt.NDArray[np.generic]:
    """In the output's own units, in which the order is exact, where that is all that counts."""
    return output.real() if output.scale is not None and not metric.is_order else output.values


def _answers(outputs: Sequence[Output], task: Task) -> npt.NDArray[np.generic] | None:
    """What each image or pixel is told to be, [N, ...]; None where that is no choice."""
    output = outputs[task.position]
    if output.is_choice:
        return output.values
    if task.loss == "cross-entropy":
        values = output.values if task.is_dense else output.values.reshape(len(output.values), -1)
        if task.is_choice:
            return values[:, :1] if values.ndim == 2 and not task.is_dense else values
        chosen: npt.NDArray[np.generic] = values.argmax(axis=task.class_axis if task.is_dense else 1)
        return chosen
    return output.real() > task.threshold if task.loss in ("binary", "multi-label") else None


def _has_rows(output: Output, count: int) -> bool:
    """Whether each image has a part of it; anchors, say, are the same for all."""
    return output.values.ndim > 0 and len(output.values) == count


def _difference(first: _Tally, reference: list[Output], tally: _Tally, outputs: list[Output], count: int) -> float:
    """Largest absolute difference over all outputs; where what has no rows has another shape there is none."""
    pairs = list(zip(reference, outputs, strict=len(reference) == len(outputs)))
    shown = [[list(output.values.shape) for output in each] for each in (outputs, reference)]
    fits = len(reference) == len(outputs) and all(
        one.values.shape == other.values.shape or not (_has_rows(one, count) or _has_rows(other, count))
        for one, other in pairs
    )
    if not fits:
        names = session_name(tally.session), session_name(first.session)
        raise ModelError(f"{names[0]}: outputs have shapes {shown[0]}, but those of {names[1]} have {shown[1]}")
    same = [(one, other) for one, other in pairs if one.values.shape == other.values.shape]
    return max((_largest(one.real().astype(np.float64) - other.real()) for one, other in same), default=0.0)


def _largest(difference: npt.NDArray[np.float64]) -> float:
    return float(np.abs(difference).max(initial=0.0))


def _count_different(one: list[Output], other: list[Output], count: int, has_tail: bool) -> int:
    equal = [_rows_equal(left, right, count, has_tail) for left, right in zip(one, other, strict=True)]
    return int((~np.logical_and.reduce(equal)).sum())


def _rows_equal(one: Output, other: Output, count: int, has_tail: bool) -> npt.NDArray[np.bool_]:
    """For each image; what has no rows is compared as a whole, for all of them."""
    are_floats = all(
        output.scale is None and np.issubdtype(output.values.dtype, np.floating) for output in (one, other)
    )
    equal = floats_near if has_tail and are_floats else integers_equal
    if one.values.shape == other.values.shape and _has_rows(one, count):
        return equal(one, other)
    same = one.values.shape == other.values.shape and bool(equal(one.whole(), other.whole()).all())
    return np.full(count, same)


def _figures(tally: _Tally, count: int, labelled: bool, has_answers: bool) -> ModelAccuracy:
    metric = tally.metric if labelled else None
    return ModelAccuracy(
        session_name(tally.session),
        None if metric is None else metric.value(),
        tally.agreed / count if has_answers else None,
        tally.largest_difference,
        {} if metric is None else metric.also(),
    )
