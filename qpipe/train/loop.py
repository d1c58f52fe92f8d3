"""The training loop: epochs of SGD with momentum on a labelled source."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional as F

from qpipe import progress
from qpipe.data import Source
from qpipe.errors import DataError, QpipeError
from qpipe.train.checkpoint import load_checkpoint, save_checkpoint
from qpipe.train.executor import Executor
from qpipe.train.run import Epoch, TrainingSettings


class DivergedError(QpipeError):
    """A loss that is no number any more."""


def train(
    executor: Executor,
    source: Source,
    settings: TrainingSettings,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> list[Epoch]:
    """Train in place and leave the executor in evaluation mode.

    One seed gives one result on one machine: order and augmentation depend on seed and epoch alone, so a run that goes
    on from its checkpoint (written after every epoch) ends with the same weights.
    """
    trained = [parameter for parameter in executor.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, settings.lr, settings.momentum, weight_decay=settings.weight_decay)
    epochs: list[Epoch] = []
    if resume:
        if checkpoint is None:
            raise QpipeError("--resume: no checkpoint was named, expected --checkpoint FILE")
        epochs = [Epoch(**epoch) for epoch in load_checkpoint(checkpoint, executor, optimizer, settings)]
    executor.train()
    for number in range(len(epochs) + 1, settings.epochs + 1):
        epochs.append(_run_epoch(executor, source, settings, optimizer, number, checkpoint))
        if checkpoint is not None:
            save_checkpoint(checkpoint, executor, optimizer, settings, epochs)
    executor.eval()
    return epochs


def _run_epoch(
    executor: Executor,
    source: Source,
    settings: TrainingSettings,
    optimizer: torch.optim.Optimizer,
    number: int,
    checkpoint: Path | None,
) -> Epoch:
    total_loss, correct, count = 0.0, 0, 0
    for inputs, labels in _batches(source, settings, number):
        logits = executor(inputs)[0].flatten(1)
        if int(labels.max()) >= logits.shape[1]:
            raise DataError(f"{source.name}: label {int(labels.max())}, but the network has {logits.shape[1]} classes")
        loss = F.cross_entropy(logits, labels)
        if not math.isfinite(value := loss.item()):
            kept = f"; the last good state is in {checkpoint}" if checkpoint is not None and number > 1 else ""
            raise DivergedError(f"epoch {number}: the loss is {value}; a lower --lr may help{kept}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total_loss += value * len(labels)
        correct += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    return Epoch(number, total_loss / count, correct / count)


def _batches(source: Source, settings: TrainingSettings, number: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The epoch's batches; a last one that is smaller is left out, where there are others."""
    drop_last = source.size is not None and source.size >= settings.batch_size
    batches = source.batches(
        settings.batch_size,
        shuffle=source.size is not None,
        seed=settings.seed,
        epoch=number,
        augment=settings.augment,
        drop_last=drop_last,
    )
    total = source.n_batches(settings.batch_size, drop_last=drop_last)
    for batch in progress.track(batches, f"epoch {number}/{settings.epochs}", total):
        if batch.labels is None:
            raise DataError(f"{source.name}: no labels, expected one for each image")
        yield torch.from_numpy(batch.inputs), torch.from_numpy(batch.labels)
