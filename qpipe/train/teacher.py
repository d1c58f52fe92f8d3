"""Distillation: the float network, before it was quantized, is the teacher of the quantized one.

Not in the FAQ paper. Source: Hinton, Vinyals and Dean 2015, *Distilling the Knowledge in a Neural Network*; with a
quantized student, Mishra and Marr 2018 (*Apprentice*) and Polino et al. 2018.
"""

from __future__ import annotations

import onnx_ir as ir
import torch

from qpipe.errors import ModelError
from qpipe.settings.training import Precision
from qpipe.tasks.task import Ending, Task
from qpipe.train.companion import Loss
from qpipe.train.executor import Executor
from qpipe.train.given import Given
from qpipe.train.losses import LOSSES, label_loss


def float_teacher(model: ir.Model, *, precision: Precision = "fp32", ending: Ending | None = None) -> Executor:
    """The float network that a trainable QDQ model still holds, or a float model, frozen and on running statistics.

    The QDQ file keeps the float weights, so it is the network that `calibrate` was given (weights of unsafe pairs lie
    at their codes), or, of a fine-tuned file with fixed-point weights, the float copy as it was trained, which may know
    less than the quantized network. Other weights are no float network's any more once they were trained.
    """
    return Executor(model, precision=precision, full_precision=True, ending=ending).requires_grad_(False)


def distillation(teacher: Executor, task: Task, *, weight: float, temperature: float) -> Loss:
    """`(1 - weight) L(y, labels) + weight D(teacher, y)` for what the task's loss is, by `LOSSES`.

    Of classes `D = T**2 KL(teacher / T || y / T)`; T**2 keeps the gradients' size (section 2). Of yes-or-no answers the
    same with their binary cross entropy, of numbers, and beside a loss of the user's, the mean squared error.

    Args:
        teacher: answers as the network does.
        task: without labels the teacher alone counts.
        weight: of the teacher's part, 0 to 1.
        temperature: T, by which both networks' scores are divided.
    """
    kind = LOSSES[task.loss if isinstance(task.loss, str) else "mse"]
    own = label_loss(task) if task.has_labels else None
    factor = temperature**2 if kind.is_tempered else 1
    last: list[tuple[Given, torch.Tensor]] = []

    def answer(inputs: Given) -> torch.Tensor:
        """The teacher's; two networks that learn from the same batch ask once."""
        if not last or last[0][0] is not inputs:
            with torch.no_grad():
                last[:] = [(inputs, teacher.answer(inputs).float())]
        return last[0][1]

    def loss(outputs: torch.Tensor, labels: torch.Tensor, inputs: Given) -> torch.Tensor:
        told = answer(inputs)
        if told.shape != outputs.shape:
            raise ModelError(f"the teacher answers {list(told.shape)}, the network {list(outputs.shape)}")
        taught = kind.of_teacher(outputs, told, temperature)
        if own is None:
            return factor * taught
        return (1 - weight) * own(outputs, labels, inputs) + weight * factor * taught

    return loss
