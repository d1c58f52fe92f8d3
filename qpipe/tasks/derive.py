"""Find the task: what the user says, and else the one reading that outputs and labels leave; or ask for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from qpipe.errors import DataError, QpipeError, RecipeError, near
from qpipe.nodes import describe
from qpipe.ops.links import Ends, ends_of
from qpipe.settings.task import TaskSettings
from qpipe.tasks.labels import LabelFacts
from qpipe.tasks.metrics import check_metric
from qpipe.tasks.outputs import OutputFacts
from qpipe.tasks.readings import READINGS, Reading
from qpipe.tasks.task import UNKNOWN, Ending, Task, loss_words, name_of

_FLAGS = "--output-name, --loss"


@dataclass(frozen=True)
class Purpose:
    """name: of the data. trains: whether a loss is needed. is_taught: whether a teacher can stand in for labels."""

    name: str
    trains: bool
    is_taught: bool = False


def derive(outputs: Sequence[OutputFacts], labels: LabelFacts | None, asked: TaskSettings, purpose: Purpose) -> Task:
    """The task, whose `said` tells in a line how it was come by.

    Raises:
        RecipeError: what is asked for does not fit, or more than one reading is left; it names the outputs.
        DataError: labels are missing, or fit no output.
    """
    chosen = _named(outputs, asked.output_name)
    if labels is None:
        return _without_labels(chosen, asked, purpose)
    if callable(asked.loss):
        return _of_own_loss(chosen, labels, asked)
    return _finished(_only_reading(chosen, labels, asked, purpose), asked, labels)


def _named(outputs: Sequence[OutputFacts], name: str | None) -> list[OutputFacts]:
    """The output that was asked for, or all that have a part for each image."""
    if name is None:
        return [output for output in outputs if output.shape is not None]
    found = [output for output in outputs if output.name == name]
    if not found:
        known = [output.name for output in outputs]
        raise RecipeError(f"output_name: '{name}', but the outputs are {_shown(outputs)}; {near(name, known)}")
    if found[0].shape is None:
        raise RecipeError(f"output_name: '{name}' has no batch axis, expected one of {_shown(outputs)}")
    return found


def _only_reading(outputs: Sequence[OutputFacts], labels: LabelFacts, asked: TaskSettings, purpose: Purpose) -> Reading:
    losses = [asked.loss] if isinstance(asked.loss, str) else list(READINGS)
    read = [reading for output in outputs for loss in losses if (reading := READINGS[loss](output, labels))]
    found = [reading for reading in read if reading.is_natural or asked.loss is not None]
    if not found:
        raise _misfit(outputs, labels, asked, purpose, read)
    # What scores all classes goes before a choice that was made from it, and exactly as many before more.
    for is_better in (lambda r: not r.output.is_integer, lambda r: r.is_exact):
        found = [reading for reading in found if is_better(reading)] or found
    if len(found) > 1:
        options = " or ".join(f"output {reading.output.words} by {reading.loss}" for reading in found)
        raise RecipeError(
            f"{purpose.name}: {labels.words} fit {options}: say which counts, by {_FLAGS} (or [task] in a recipe)"
        )
    return found[0]


def _misfit(
    outputs: Sequence[OutputFacts],
    labels: LabelFacts,
    asked: TaskSettings,
    purpose: Purpose,
    read: Sequence[Reading],
) -> QpipeError:
    told = f"{purpose.name}: {labels.words}, from {labels.smallest:g} to {labels.largest:g},"
    if read:
        numbers = "one number" if read[0].columns == 1 else "numbers"
        losses = " or ".join(dict.fromkeys(f"--loss {reading.loss}" for reading in read))
        return RecipeError(
            f"{told} may be classes or numbers, and output {read[0].output.words} gives {numbers}: expected {losses}, "
            "where that is meant"
        )
    for output in outputs:
        node = output.ends.disguised
        if output.is_integer and output.ends.choice is None:
            return RecipeError(
                f"output {output.words}: gives integers, which are no scores, and no ArgMax or TopK chose them as the "
                "largest; expected another --output-name"
            )
        if node is not None and asked.loss != "mse":
            return RecipeError(
                f"output {output.words}: {describe(node)} is followed by arithmetic, or not over the scores of "
                "an image, so it gives neither scores nor probabilities; expected another --output-name, or --loss mse"
            )
    if len(outputs) == 1 and outputs[0].rows is not None and labels.is_whole and not labels.shape and not asked.loss:
        count = outputs[0].rows
        told = f"labels go from {labels.smallest:g} to {labels.largest:g}"
        if labels.named and labels.largest < count:
            told = f"there are {labels.classes} names of classes"
        return DataError(
            f"{purpose.name}: {told}, but output {outputs[0].words} has {count} class{'es' if count > 1 else ''}; "
            f"expected {'as many' if 'names' in told else f'labels from 0 to {count - 1}'}"
        )
    by = f" by the loss {name_of(asked.loss)}" if asked.loss else ""
    return DataError(f"{told} fit no output{by}: there {_are(outputs)}; expected others, or another {_FLAGS}")


def _finished(reading: Reading, asked: TaskSettings, labels: LabelFacts) -> Task:
    """The task of a reading."""
    output, ends = reading.output, reading.output.ends
    metric = asked.metric or reading.metric
    check_metric(metric, reading.loss, is_dense=reading.is_dense)
    ending = _ending(output.name, ends, reading.loss, is_dense=reading.is_dense, class_axis=reading.class_axis)
    through = ends.words or ("" if ends.choice is None else describe(ends.choice))
    why = f"{reading.columns} classes and {labels.words}" if reading.loss == "cross-entropy" else labels.words
    how = "as asked" if asked.loss or asked.output_name else f"derived from {why}"
    per = " per pixel" if reading.is_dense and reading.loss != "mse" else ""
    before = f" before {through}" if through and reading.loss != "mse" else ""
    return Task(
        output=output.name,
        position=output.position,
        loss=reading.loss,
        metric=metric,
        columns=reading.columns,
        is_dense=reading.is_dense,
        class_axis=reading.class_axis,
        threshold=0.5 if ends.link == "sigmoid" else 0.0,
        is_choice=output.is_integer,
        ignore_label=asked.ignore_label,
        ending=ending,
        said=f"output '{output.name}', {loss_words(reading.loss)}{per}{before}, {name_of(metric)}: {how}",
    )


def ending_at(value: ir.Value, task: Task) -> Ending:
    """What a loss reads of another network's output: the same as of the task's own."""
    return _ending(str(value.name), ends_of(value), task.loss, is_dense=task.is_dense, class_axis=task.class_axis)


def _ending(name: str, ends: Ends, loss: str | Callable[..., Any] | None, *, is_dense: bool, class_axis: int) -> Ending:
    """What the loss reads: scores before a Softmax, a Sigmoid or a choice; numbers as they are."""
    if callable(loss) or loss == "mse":
        return Ending(name, rows=False)
    axis = class_axis if loss == "cross-entropy" else 1
    if ends.choice is None:
        return Ending(name, _skipped(ends.links), not is_dense, axis)
    scores = ends.choice.inputs[0]
    assert scores is not None
    return Ending(str(scores.name), _skipped(ends_of(scores).links), not is_dense, axis)


def _skipped(links: Sequence[ir.Node]) -> frozenset[str]:
    return frozenset(str(node.outputs[0].name) for node in links)


def _of_own_loss(outputs: Sequence[OutputFacts], labels: LabelFacts, asked: TaskSettings) -> Task:
    """A loss of the user's reads the output as it is; a metric is known where it was given, or the reading is clear."""
    assert asked.loss is not None
    if len(outputs) != 1:
        raise RecipeError(f"loss: a function, but there {_are(outputs)}: say which output it reads, by --output-name")
    output = outputs[0]
    read = [r for reads in READINGS.values() if (r := reads(output, labels)) is not None]
    if isinstance(asked.metric, str):
        read = [r for r in read if check_metric(asked.metric, r.loss, is_dense=r.is_dense, refuses=False)]
        if not read:
            raise RecipeError(f"metric: {asked.metric}, but it can't judge output {output.words} by {labels.words}")
    natural = next((r for r in read if r.is_natural), read[0] if read and asked.metric else None)
    task = _finished(natural, TaskSettings(metric=asked.metric), labels) if natural else Task(output.name, metric=None)
    metric = task.metric if asked.metric is None else asked.metric
    said = f"output '{output.name}', {loss_words(asked.loss)}, {name_of(metric) if metric else 'no metric'}: as asked"
    return replace(
        task,
        output=output.name,
        position=output.position,
        loss=asked.loss,
        metric=metric,
        ending=Ending(output.name, rows=False),
        said=said,
    )


def _without_labels(outputs: Sequence[OutputFacts], asked: TaskSettings, purpose: Purpose) -> Task:
    """What a teacher alone can train, or what models can be compared by."""
    floats = [output for output in outputs if not output.is_integer]
    if asked.metric is not None:
        raise DataError(f"{purpose.name}: no labels, but the metric {name_of(asked.metric)} needs one for each image")
    if purpose.trains and not purpose.is_taught:
        raise DataError(f"{purpose.name}: no labels, expected one for each image, or a teacher (--teacher)")
    if callable(asked.loss):
        raise DataError(f"{purpose.name}: no labels, but the loss is a function, which reads them")
    if purpose.trains and len(floats) != 1:
        raise RecipeError(
            f"{purpose.name}: no labels, and there {_are(outputs)}: say which one the teacher teaches, by --output-name"
        )
    if len(outputs) != 1:
        return replace(UNKNOWN, has_labels=False)
    output = outputs[0]
    loss = asked.loss or _alone(output)
    rows = output.rows is not None
    taught = f", and the teacher's answers alone train, by {loss_words(loss)}" if purpose.trains else ""
    return Task(
        output=output.name,
        position=output.position,
        loss=loss,
        metric=None,
        columns=output.rows or 1,
        is_dense=not rows,
        threshold=0.5 if output.ends.link == "sigmoid" else 0.0,
        is_choice=output.is_integer,
        has_labels=False,
        ending=_ending(output.name, output.ends, loss, is_dense=not rows, class_axis=1),
        said=f"output '{output.name}', no metric: there are no labels" + taught,
    )


def _alone(output: OutputFacts) -> str:
    """The loss that an output suggests by itself."""
    if output.ends.link == "sigmoid":
        return "binary" if output.rows in (1, None) else "multi-label"
    scores = output.rows is not None and output.rows > 1 and output.ends.disguised is None
    return "cross-entropy" if output.ends.link == "softmax" or scores or output.is_integer else "mse"


def _shown(outputs: Sequence[OutputFacts]) -> str:
    return ", ".join(output.words for output in outputs) or "none with a batch axis"


def _are(outputs: Sequence[OutputFacts]) -> str:
    return f"{'is' if len(outputs) == 1 else 'are'} {_shown(outputs)}"
