"""A float network judged with its low-bit forward: what training computed, rounded to nearest."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
import torch

from qpipe import progress
from qpipe.data import Source
from qpipe.settings.arithmetic import ArithmeticSettings
from qpipe.tasks.metrics import metric_of
from qpipe.tasks.task import Ending, Task
from qpipe.train.companions.low_bit import LowBit
from qpipe.train.executor import Executor
from qpipe.train.given import given_of

BATCH = 256
"""Images that share their tensors' scales."""


@torch.no_grad()
def low_bit_metric(network: ir.Model, settings: ArithmeticSettings, test: Source, task: Task) -> float | None:
    """The task's metric of a normalized float network as the executor computes it, its products low-bit.

    A tensor's scale is that of a batch, so the batches' size has a small part in it.
    """
    metric = metric_of(task, "the low-bit network")
    if metric is None:
        return None
    ending = Ending(task.output, rows=False)
    if task.is_choice:  # of a class that the graph chooses: the scores that it chooses by
        ending, metric = task.ending, metric_of(replace(task, is_choice=False, class_axis=1))
        assert metric is not None
    executor = Executor(network, ending=ending)
    LowBit([executor], settings, seed=0)
    for batch in progress.track(test.batches(BATCH), "evaluating, low-bit", test.n_batches(BATCH)):
        answer = executor.answer(given_of(executor.graph, batch.inputs)).numpy()
        if batch.labels is not None:
            metric.add(answer, batch.labels)
    return metric.value()
