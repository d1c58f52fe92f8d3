"""The metrics, each in one file: numpy, summed up batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from qpipe.errors import RecipeError
from qpipe.tasks.metrics.accuracy import Accuracy
from qpipe.tasks.metrics.base import Metric
from qpipe.tasks.metrics.error import MeanSquares, Psnr
from qpipe.tasks.metrics.f1 import F1
from qpipe.tasks.metrics.iou import MeanIou
from qpipe.tasks.metrics.own import Own
from qpipe.tasks.metrics.top_k import Top1, Top5
from qpipe.tasks.task import Task

METRICS: Final[dict[str, type[Metric]]] = {
    "top-1": Top1,
    "top-5": Top5,
    "accuracy": Accuracy,
    "f1": F1,
    "mse": MeanSquares,
    "psnr": Psnr,
    "miou": MeanIou,
}


def metric_of(task: Task, name: str = "the model") -> Metric | None:
    """The task's metric, empty; None where it has none. name: what messages call the model."""
    if task.metric is None:
        return None
    return Own(task, name) if callable(task.metric) else METRICS[task.metric](task, name)


def check_metric(metric: str | Callable[..., Any], loss: str, *, is_dense: bool, refuses: bool = True) -> bool:
    """Whether a metric can judge what this loss trains; RecipeError where it can't, unless told otherwise."""
    if callable(metric):
        return True
    kind = METRICS[metric]
    fits = loss in kind.losses and (kind.is_dense is None or kind.is_dense == is_dense)
    if not fits and refuses:
        what = f"the loss {loss}{' per pixel' if is_dense else ''}"
        known = [name for name, m in METRICS.items() if loss in m.losses and m.is_dense in (None, is_dense)]
        raise RecipeError(f"metric: {metric}, but it can't judge {what}; expected {', '.join(known)}, or a function")
    return fits
