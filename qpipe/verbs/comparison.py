"""Run models on the same images and count, those without their float tail against the others without theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from passes.shipping.lower_integer import CUT_TAIL
from qpipe import progress
from qpipe.data import DataLike, Preprocess, Source, Split, check_fits, open_data
from qpipe.data.carried import carried_preprocess
from qpipe.data.inputs import inputs_of
from qpipe.errors import DataError, RecipeError
from qpipe.ir.files.metadata import KEEPS_ORDER, get_json
from qpipe.ir.graph.ending import ending_in
from qpipe.ops import op_of
from qpipe.runtime.accuracy import AccuracyReport, ModelAccuracy, measure_accuracy
from qpipe.runtime.session import AnyModel, open_session
from qpipe.settings import TaskSettings
from qpipe.tasks.task import UNKNOWN, Task
from qpipe.verbs.purpose import task_of
from qpipe.verbs.runnable import Runnable
from qpipe.verbs.sources import PreprocessLike, about, preprocess_of


@dataclass
class Comparison:
    """images: how many were run. figures: by position. different: on how many images two of one origin differ.

    task: what the models are judged by. Agreement and largest difference are None for a model whose outputs mean
    something else than the first one's.
    """

    task: Task

    images: int = 0
    figures: dict[int, ModelAccuracy] = field(default_factory=dict)
    different: dict[tuple[int, int], int] = field(default_factory=dict)

    def metrics(self, position: int) -> dict[str, float | None]:
        """What tables and JSON show of a model's metric, by name."""
        figures, metric = self.figures[position], self.task.metric
        if metric is None or metric in ("top-1", "top-5"):
            return {"top1": figures.top1, "top5": figures.top5}
        return {self.task.metric_name: figures.metric}

    def differ(self, one: int, other: int) -> int:
        """On how many images the models at these positions, which are of one origin, differ."""
        return self.different[min(one, other), max(one, other)]


def open_common(runnables: Sequence[Runnable], data: DataLike, split: Split, preprocess: PreprocessLike) -> Source:
    """The data for all of the models; DataError where they don't fit one, or where two preprocess differently.

    preprocess: what replaces parts of the preprocessing that the models carry.
    """
    # What takes pixels has the inputs of the float network that it was made from.
    inputs = [inputs_of(runnable.network.graph) for runnable in runnables]
    source = open_data(data, split, _common_preprocess(runnables, preprocess), inputs=max(inputs, key=len))
    progress.tell(source.found)
    _check_inputs(runnables, source)
    return source


def compare(
    runnables: Sequence[Runnable],
    source: Source,
    batch_size: int,
    limit: int | None,
    asked: TaskSettings,
    *,
    needs_task: bool = True,
) -> Comparison:
    """Run all models; an export with integer outputs whose float tail was cut off is no match for whole models.

    It is compared with those of its origin on what their tails read, and judged where these change no order.

    Args:
        needs_task: False judges nothing where the labels leave open by what, and nothing was asked.

    Raises:
        RecipeError, DataError: what the models are for is not as asked, or is to be asked for.
    """

    def measure(positions: Sequence[int], models: Sequence[AnyModel], task: Task) -> tuple[ModelAccuracy, ...]:
        sessions = [open_session(m, name=runnables[i].name) for i, m in zip(positions, models, strict=True)]
        batches = source.batches(batch_size, limit=limit)
        total = source.n_batches(batch_size, limit=limit)
        has_tail = any(map(_computes_floats, (runnables[i] for i in positions)))
        tracked = progress.track(batches, "validating", total)
        report = measure_accuracy(sessions, tracked, task=task, has_tail=has_tail)
        _add(found, positions, report)
        return report.models

    cut = [index for index, runnable in enumerate(runnables) if _is_cut(runnable)]
    whole = [index for index in range(len(runnables)) if index not in cut]
    found = Comparison(_task(runnables[(whole or cut)[0]], source, asked, needs_task or asked != TaskSettings()))
    if whole:
        figures = measure(whole, [runnables[i].source for i in whole], found.task)
        found.figures.update(zip(whole, figures, strict=True))
    while cut:
        task = UNKNOWN if found.task.metric is None else _task_of_cut(runnables[cut[0]], source, asked)
        same = of_origin(runnables, cut[0])
        names = [str(value.name) for value in runnables[cut[0]].network.graph.outputs]
        models = [runnables[i].source if i in cut else ending_in(runnables[i].network, names) for i in same]
        for index, own in zip(same, measure(same, models, task), strict=True):
            if index in cut:
                found.figures[index] = replace(own, agreement=None, largest_difference=None)
        cut = [index for index in cut if index not in same]
    return found


def _computes_floats(runnable: Runnable) -> bool:
    """Whether its float tail does more than to move numbers; of exports their QDQ model tells."""
    layers = [] if runnable.view is None else runnable.view.tail
    ops = [op_of(node) for layer in layers for node in layer.nodes]
    return not all(op.only_reshapes or op.only_joins for op in ops)


def _is_cut(runnable: Runnable) -> bool:
    """Whether it ends before the float tail of its origin."""
    with about(runnable.name):
        return bool(get_json(runnable.network, CUT_TAIL))


def _task(runnable: Runnable, source: Source, asked: TaskSettings, needs_task: bool) -> Task:
    try:
        with about(runnable.name):
            return task_of(runnable.network, source, asked)
    except (RecipeError, DataError) as error:
        if needs_task:
            raise
        return replace(UNKNOWN, said=f"nothing is judged: {error}")


def _task_of_cut(runnable: Runnable, source: Source, asked: TaskSettings) -> Task:
    """By what an export without its float tail is judged: by nothing where that changes what its outputs mean."""
    network = runnable.network
    names = [value.name for value in network.graph.outputs]
    if not get_json(network, KEEPS_ORDER) or (asked.output_name not in names and len(names) > 1):
        return UNKNOWN
    own = asked if asked.output_name in names else asked.model_copy(update={"output_name": None})
    return task_of(network, source, own)


def of_origin(runnables: Sequence[Runnable], index: int) -> list[int]:
    """The positions of all models of the same origin, at least its own."""
    origin = runnables[index].origin
    return [other for other, one in enumerate(runnables) if other == index or (origin and one.origin == origin)]


def _add(found: Comparison, positions: Sequence[int], report: AccuracyReport) -> None:
    """Keep the larger count: two whole models may have been compared both with and without their tails."""
    found.images = report.count
    for i, one in enumerate(positions):
        for j, other in enumerate(positions):
            if one < other:
                count = max(found.different.get((one, other), 0), report.different[i][j])
                found.different[one, other] = count


def _common_preprocess(runnables: Sequence[Runnable], overrides: PreprocessLike) -> Preprocess:
    """The preprocessing that the models carry, all that carry one the same; DataError where they don't."""
    carrying = []
    for runnable in runnables:
        with about(runnable.name):
            carrying += [runnable] if carried_preprocess(runnable.network) is not None else []
    found = [(runnable.name, preprocess_of(runnable.network, overrides)) for runnable in carrying or runnables]
    for name, settings in found[1:]:
        if settings != found[0][1]:
            key = next(key for key, value in settings if value != getattr(found[0][1], key))
            values = getattr(found[0][1], key), getattr(settings, key)
            raise DataError(
                f"{found[0][0]} and {name} carry different preprocessing ({key} {values[0]} and {values[1]}); "
                "expected the same, or settings that override it"
            )
    return found[0][1]


def _check_inputs(runnables: Sequence[Runnable], source: Source) -> None:
    """Refuse data that don't fit a model's input; what takes pixels is checked when it runs."""
    for runnable in runnables:
        inputs = inputs_of(runnable.network.graph)
        if len(inputs) > 1 or all(each.dtype.kind == "f" for each in inputs):
            check_fits(source, inputs)
