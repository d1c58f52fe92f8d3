"""The losses, by name: what a run minimizes against labels, what it learns from a teacher, and which answers are right.

Every function takes what the network's `answer` gives: rows `[N, columns]`, scores `[N, classes, ...]`, or numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn import functional as F

from qpipe.errors import DataError, QpipeError, user_code
from qpipe.tasks.task import Task, name_of
from qpipe.train.companion import Loss
from qpipe.train.given import Given

_IGNORED = -100
"""torch's label that counts nothing."""


def label_loss(task: Task) -> Loss:
    """Of the labels alone."""
    if callable(task.loss):
        return _own(task.loss)
    kind = LOSSES[str(task.loss)]
    return lambda outputs, labels, inputs: kind.of_labels(outputs, kind.targets(task, outputs, labels))


def hits_of(task: Task, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How many answers of a batch are right, in images; 0 where a task knows no right ones."""
    if not task.knows_right:
        return torch.zeros((), device=outputs.device)
    kind = LOSSES[str(task.loss)]
    return kind.hits(outputs, kind.targets(task, outputs, labels))


def check_labels(task: Task, outputs: torch.Tensor, labels: torch.Tensor, name: str) -> None:
    """Raise DataError for a label of a stream, whose labels nobody has seen before, that no class is there for."""
    if task.loss != "cross-entropy" or not task.has_labels:
        return
    found = _classes(task, outputs, labels)
    counted, columns = found[found != _IGNORED] if task.ignore_label is not None else found, outputs.shape[1]
    smallest, largest = int(counted.min()), int(counted.max())
    if smallest < 0 or largest >= columns:
        wrong = largest if largest >= columns else smallest
        raise DataError(f"{name}: label {wrong}, but output '{task.output}' has {columns} classes")


def _own(function: Callable[..., Any]) -> Loss:
    what = f"loss '{name_of(function)}'"

    def loss(outputs: torch.Tensor, labels: torch.Tensor, inputs: Given) -> torch.Tensor:
        with user_code(QpipeError, f"{what}: raised", expected="a number"):
            found = function(outputs, labels)
        if not isinstance(found, torch.Tensor) or found.numel() != 1:
            shape = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise QpipeError(f"{what}: gave {shape}, expected a tensor of one number")
        if not found.requires_grad and outputs.requires_grad:
            raise QpipeError(f"{what}: gave a number without a gradient, expected one that depends on the outputs")
        return found.reshape(())

    return loss


def _classes(task: Task, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`[N]`, or `[N, ...]` of dense scores: int64, the ignored one as torch's."""
    shape = (outputs.shape[0], *outputs.shape[2:])
    if labels.numel() == outputs.numel() and not task.is_dense:
        return labels.reshape(outputs.shape).argmax(1)  # rows with a single 1
    found = _like(labels, shape).long()
    return found if task.ignore_label is None else found.where(found != task.ignore_label, _IGNORED)


def _numbers(task: Task, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return _like(labels, tuple(outputs.shape)).to(outputs.dtype)


def _like(labels: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    try:
        return labels.reshape(shape)
    except RuntimeError:
        raise DataError(f"labels have shape {list(labels.shape)}, expected {list(shape)}") from None


def _right_classes(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    right = outputs.argmax(1) == targets
    return right.sum() if targets.ndim == 1 else right.float().flatten(1).mean(1).sum()


def _right_sides(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return ((outputs > 0) == (targets > 0.5)).float().flatten(1).mean(1).sum()


def _softened(outputs: torch.Tensor, told: torch.Tensor, temperature: float) -> torch.Tensor:
    """`KL(teacher / T || y / T)`, the mean over images, or over pixels."""
    if outputs.ndim > 2:
        outputs, told = (scores.movedim(1, -1).flatten(0, -2) for scores in (outputs, told))
    return F.kl_div(
        F.log_softmax(outputs / temperature, 1),
        F.log_softmax(told / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )


def _softened_sides(outputs: torch.Tensor, told: torch.Tensor, temperature: float) -> torch.Tensor:
    """`BCE(y / T, sigmoid(teacher / T))`, the same for yes-or-no answers."""
    return F.binary_cross_entropy_with_logits(outputs / temperature, (told / temperature).sigmoid())


@dataclass(frozen=True)
class LossKind:
    """targets: labels as `of_labels` takes them. of_teacher: from the teacher's answer, at a temperature.

    is_tempered: whether its gradient shrinks with the square of the temperature.
    """

    of_labels: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    targets: Callable[[Task, torch.Tensor, torch.Tensor], torch.Tensor]
    of_teacher: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
    hits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    is_tempered: bool = True


_SIDES: Final = LossKind(F.binary_cross_entropy_with_logits, _numbers, _softened_sides, _right_sides)
LOSSES: Final[dict[str, LossKind]] = {
    "cross-entropy": LossKind(F.cross_entropy, _classes, _softened, _right_classes),
    "binary": _SIDES,
    "multi-label": _SIDES,
    "mse": LossKind(
        F.mse_loss,
        _numbers,
        lambda outputs, told, _: F.mse_loss(outputs, told),
        lambda outputs, _: torch.zeros((), device=outputs.device),
        is_tempered=False,
    ),
}
