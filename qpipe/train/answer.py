"""Whether a network's answer can be trained: asked before a run, not found out by it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch

from qpipe.data.checks import shown_shape
from qpipe.errors import DataError, ModelError
from qpipe.nodes import static_shape
from qpipe.settings import FinetuneSettings
from qpipe.tasks.task import Ending, Task
from qpipe.train.executor import Executor
from qpipe.train.given import zeros_of


def answering(network: ir.Model, task: Task, image_shape: Sequence[int], settings: FinetuneSettings) -> Executor:
    """The executor whose answer the task's loss reads, as the settings say that it trains.

    Raises:
        DataError: a label beyond the scores that the network chooses by.
        ModelError: no gradient comes through to the task's output; it names the node, and outputs to train instead.
    """
    try:
        executor = Executor(
            network,
            batch_norm=settings.batch_norm,
            precision=settings.precision,
            activation_gradient=settings.activation_gradient,
            ending=task.ending,
        )
        answer = _with_gradient(executor, image_shape)
    except ModelError as error:
        others = _trainable(network, task) if task.ending.value else []
        if not others:
            raise
        raise ModelError(f"{error}; --output-name could be {', '.join(others)}") from error
    if task.has_labels and task.loss == "cross-entropy" and answer.shape[1] < task.columns:
        raise DataError(
            f"the largest label is {task.columns - 1}, but the scores of output '{task.output}' are {answer.shape[1]}; "
            f"expected labels from 0 to {answer.shape[1] - 1}"
        )
    return executor


def _with_gradient(executor: Executor, image_shape: Sequence[int]) -> torch.Tensor:
    """The answer to an image of zeros; ModelError where it depends on no result of the layers."""
    with torch.no_grad():
        values = executor.eval().start(zeros_of(executor.graph, image_shape))
        executor.run(values, executor.steps)
    read = {value: x.float().requires_grad_() for value, x in values.items()}
    answer: torch.Tensor = executor.tail(read)
    if not answer.requires_grad:
        raise ModelError(f"'{executor.tail.target.name}': no gradient passes to it")
    return answer.detach()


def _trainable(network: ir.Model, task: Task) -> list[str]:
    """The other outputs that a gradient comes through to, with their shapes."""
    plain, found = Executor(network), []
    for value in network.graph.outputs:
        if value.name == task.output:
            continue
        try:
            plain.tail_at(Ending(str(value.name)))
        except ModelError:
            continue
        shape = static_shape(value)
        found.append(f"'{value.name}'" if shape is None else f"'{value.name}' {shown_shape(shape)}")
    return found
