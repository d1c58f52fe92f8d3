"""How a network is judged, on its way from the float file to the trained one."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Final

import onnx_ir as ir

from passes.shipping.finalize import Finalize
from qpipe import progress
from qpipe.data import Source
from qpipe.ir.quantized.kind import is_float
from qpipe.processes import is_main_process
from qpipe.runtime.accuracy import measure_accuracy
from qpipe.runtime.session import open_session
from qpipe.tasks.task import Task

NEAR_CHANCE: Final = 1 / 18
"""How much of the way from guessing to knowing all a network has gone at least that was trained on such images.

Of ten classes it has 15 % right then, of two 53 %.
"""


def metric_of(network: ir.Model, test: Source, task: Task, name: str) -> float | None:
    """The task's metric of what would ship; the main process counts. name: what messages call the network."""
    if not is_main_process():
        return None
    final = network.clone()
    if not is_float(final):
        Finalize()(final)
    batches = progress.track(test.batches(256), "evaluating", test.n_batches(256))
    return measure_accuracy([open_session(final, name=name)], batches, task=task).models[0].metric


def warn_of_float(top1: float | None, task: Task) -> None:
    """Warn of a float network that guesses: most often it got pixels of another normalization, and it may teach."""
    if top1 is not None and top1 < _near_chance(task):
        warnings.warn(
            f"the float network's top-1 is {100 * top1:.2f} %, about chance: is the preprocessing that of its training "
            "(--mean, --std, ...)?",
            stacklevel=3,
        )


def warn_of_training(before: Iterable[float | None], after: float | None, task: Task) -> None:
    """Warn of training that has lost what the network knew in one of the phases before."""
    limit = _near_chance(task)
    if after is not None and after < limit and any(top1 is not None and top1 >= limit for top1 in before):
        warnings.warn(
            f"the trained network's top-1 is {100 * after:.2f} %, about chance: training has lost what it knew, "
            "expected a lower --lr, or another --recipe",
            stacklevel=3,
        )


def _near_chance(task: Task) -> float:
    """Below this top-1, of 1, a network guesses; minus infinity where nobody knows what guessing gives."""
    if task.metric != "top-1" or not task.columns:
        return -math.inf
    return 1 / task.columns + NEAR_CHANCE * (1 - 1 / task.columns)
