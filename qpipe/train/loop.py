"""The training loop: epochs of SGD or Adam on a source of images, alone or together with other processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from qpipe import progress
from qpipe.data import Augment, Portion, Source
from qpipe.errors import DataError, QpipeError
from qpipe.settings import FinetuneSettings
from qpipe.tasks.task import CLASSES, Task
from qpipe.train.bring_together import bring_together
from qpipe.train.checkpoint import Parts
from qpipe.train.companion import Companion, Loss
from qpipe.train.executor import Executor
from qpipe.train.given import Given, given_of
from qpipe.train.gradient_clip import clip_gradients, weighted_layers
from qpipe.train.identity import identity_of
from qpipe.train.keeper import Keeper
from qpipe.train.losses import check_labels, hits_of, label_loss
from qpipe.train.observer import Observer
from qpipe.train.optimizer import RATE, optimizer_of
from qpipe.train.run import Epoch, Judged, RunState
from qpipe.train.schedule import batches_of, batches_per_update, drops_last, learning_rate, moment
from qpipe.train.statistics import BATCHES, estimate_statistics
from qpipe.train.together import Together, together
from qpipe.train.weighted import WeightedLayer

Batches = Iterator[tuple[Given, torch.Tensor]]


@dataclass(frozen=True)
class _Run:
    """What stays the same from update to update. layers: all that train, the companions' too."""

    executor: Executor
    layers: Sequence[WeightedLayer]
    optimizer: torch.optim.Optimizer
    source: Source
    settings: FinetuneSettings
    seed: int
    task: Task
    loss: Loss
    observers: Sequence[Observer]
    companions: Sequence[Companion]
    group: Together
    keeper: Keeper

    @property
    def batches(self) -> int | None:
        """Real batches in an epoch; None for a stream."""
        return batches_of(self.settings, self.source)

    def share(self, images: int) -> float:
        """The part of a batch that these images are, of 1."""
        return images / min(self.settings.batch_size, len(self.source))


def train(
    executor: Executor,
    source: Source,
    settings: FinetuneSettings,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    checkpoint_every: int | None = None,
    observers: Sequence[Observer] = (),
    companions: Sequence[Companion] = (),
    evaluate: Callable[[Executor], Judged] | None = None,
    evaluate_every: int = 1,
    task: Task = CLASSES,
    loss: Loss | None = None,
) -> list[Epoch]:
    """Train in place and leave the executor in evaluation mode, on the CPU.

    One seed gives one result on one machine: order and augmentation depend on seed and epoch alone, so a run that goes
    on from its checkpoint ends with the same weights. Of several processes each computes its share of every batch;
    what an update applies is the mean over the whole one, so all hold the same weights all the time.

    Args:
        executor: of a trainable graph.
        source: labelled; a stream keeps its own order.
        settings: what the result depends on, whole: `resolve` says what its recipe does, and None is no augmentation.
        seed: of the order of the images, and of their augmentation.
        checkpoint, resume: a file that keeps the run's state after every epoch; go on from it.
        checkpoint_every: updates after which it is written within an epoch.
        observers: look on in the main process.
        companions: train beside the network.
        evaluate: judges the executor in evaluation mode; in the main process.
        evaluate_every: after so many epochs, and after the last.
        task: what the network is for, which the executor's ending is of.
        loss: of the answer, labels and inputs, the mean over the images that it is given; by default the task's.

    Raises:
        DataError, QpipeError: in one line; DivergedError names the last good checkpoint.
    """
    executor.eval()
    group = together()
    if group.count > min(settings.batch_size, source.size or settings.batch_size):
        raise QpipeError(f"{group.count} processes share a batch of {settings.batch_size}: expected an image for each")
    watching = observers if group.is_main else ()
    identity = identity_of(executor, settings, seed, source, task, observers)
    executor.to(group.device)
    for companion in companions:
        companion.to(group.device)
    # A companion may share the network's own.
    modules = [executor, *companions]
    trained = list(dict.fromkeys(p for module in modules for p in module.parameters() if p.requires_grad))
    optimizer = optimizer_of(trained, companions, settings)
    parts = Parts(executor, optimizer, watching, companions, identity)
    keeper = Keeper(checkpoint, checkpoint_every, parts, group.is_main)
    run = _Run(
        executor=executor,
        layers=weighted_layers(modules),
        optimizer=optimizer,
        source=source,
        settings=settings,
        seed=seed,
        task=task,
        loss=loss or label_loss(task),
        observers=watching,
        companions=companions,
        group=group,
        keeper=keeper,
    )
    state = keeper.resume() if resume else RunState()
    if len(state.epochs) > settings.epochs:
        raise QpipeError(f"{checkpoint}: {len(state.epochs)} epochs are done, expected at most {settings.epochs}")
    for observer in watching:
        observer.on_start(executor)
    executor.train()
    while len(state.epochs) < settings.epochs:
        epoch = _run_epoch(run, state)
        keeper.require_finite(state)
        for companion in companions:
            companion.end_epoch(epoch.number)
        is_due = epoch.number % evaluate_every == 0 or epoch.number == settings.epochs
        judged = _evaluate(run, evaluate) if evaluate is not None and is_due else Judged(None)
        state.close(replace(epoch, test_accuracy=judged.metric, low_bit_accuracy=judged.low_bit))
        keeper.keep(state)
    changed = [companion.end_training() for companion in companions]
    if any(changed):
        _estimate_statistics(run, state)
    executor.cpu().eval()
    for observer in watching:
        observer.on_end(executor)
    return state.epochs


def _run_epoch(run: _Run, state: RunState) -> Epoch:
    """Train to the end of the epoch that the state is in."""
    settings, total = run.settings, run.batches
    start = moment(len(state.epochs), 0, total)
    batches = _rest(run, state)
    at = moment(len(state.epochs), state.batches, total)
    while _update(run, state, islice(batches, batches_per_update(settings, at)), at):
        run.keeper.keep_if_due(state)
        at = moment(len(state.epochs), state.batches, total)
    if not state.images:
        raise DataError(f"{run.source.name}: no images in epoch {state.number}")
    return Epoch(
        state.number,
        state.loss / state.images,
        state.correct / state.images if run.task.knows_right else None,
        learning_rate(settings, start),
        settings.batch_size * batches_per_update(settings, start),
    )


def _update(run: _Run, state: RunState, batches: Batches, at: Fraction) -> bool:
    """One update by the mean gradient over these real batches, the last of an epoch fewer; False without any."""
    run.optimizer.zero_grad(set_to_none=True)
    sums = torch.zeros(3, dtype=torch.float64, device=run.group.device)
    count = 0
    for companion in run.companions:
        companion.begin_update(at / run.settings.epochs, state.updates)
    for inputs, labels in batches:
        sums += _accumulate(run, inputs, labels)
        count += 1
    if not count:
        return False
    for companion in run.companions:
        companion.end_backward()
    trouble = next((found for companion in run.companions if (found := companion.trouble())), None)
    if trouble is not None:
        sums.fill_(math.nan)  # every process is to hear of it
    roots = (run.executor, *run.companions)
    bring_together(roots, run.optimizer, run.group, sums, count)
    clip_gradients(run.layers, run.settings.gradient_clip)
    value, correct, images = sums.tolist()
    state.updates += 1
    state.batches += count
    if not math.isfinite(value):
        raise run.keeper.diverged(state, trouble or f"the loss is {value}")
    state.loss += value
    state.correct += correct
    state.images += int(images)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(run.settings, at) * group[RATE]
    for observer in run.observers:
        observer.before_update(run.executor, state.updates)
    run.optimizer.step()
    for companion in run.companions:
        companion.end_update()
    for observer in run.observers:
        observer.after_update(run.executor, state.updates)
    return True


def _accumulate(run: _Run, inputs: Given, labels: torch.Tensor) -> torch.Tensor:
    """Add the gradients of one real batch; its summed loss, right answers and images, float64 `[3]`."""
    answer = run.executor.answer(inputs)
    if run.source.size is None:
        check_labels(run.task, answer, labels, run.source.name)
    loss = run.loss(answer, labels, inputs)
    extra = [companion.extra_loss(run.loss, labels, inputs) for companion in run.companions]
    total = sum((part for part in extra if part is not None), start=loss)
    part = total if run.group.count == 1 else total * run.share(len(labels))
    part.backward()  # type: ignore[no-untyped-call]
    correct = hits_of(run.task, answer.detach(), labels).double()
    return torch.stack([loss.detach().double() * len(labels), correct, torch.full_like(correct, len(labels))])


def _evaluate(run: _Run, evaluate: Callable[[Executor], Judged]) -> Judged:
    """What `evaluate` finds; training goes on as if it had not been."""
    if not run.group.is_main:
        return Judged(None)
    judged = evaluate(run.executor.cpu().eval())
    run.executor.to(run.group.device).train()
    return judged


def _estimate_statistics(run: _Run, state: RunState) -> None:
    """On images of the epoch that would come next: the same whether the run was resumed or not, in every process."""
    for companion in run.companions:
        companion.begin_update(Fraction(1), state.updates)  # what fades is gone
    batches = _batches(run, state, Portion(0, 1, 0), "statistics")
    estimate_statistics(run.executor, islice((inputs for inputs, _ in batches), BATCHES))


def _rest(run: _Run, state: RunState) -> Batches:
    """What is left of the epoch, as much of each batch as this process has."""
    portion = Portion(run.group.index, run.group.count, state.batches)
    return _batches(run, state, portion, f"epoch {state.number}/{run.settings.epochs}")


def _batches(run: _Run, state: RunState, portion: Portion, what: str) -> Batches:
    """A portion of the state's epoch; what: it is called where progress is shown."""
    settings, source = run.settings, run.source
    moves = settings.crop_padding or settings.flip
    batches = source.batches(
        settings.batch_size,
        shuffle=source.size is not None,
        seed=run.seed,
        epoch=state.number,
        augment=Augment(pad=settings.crop_padding or 0, flip=bool(settings.flip)) if moves else None,
        drop_last=drops_last(settings, source),
        portion=portion,
    )
    total = None if run.batches is None else run.batches - portion.skip
    for batch in progress.track(batches, what, total):
        if batch.labels is None and run.task.has_labels:
            raise DataError(f"{source.name}: no labels, expected one for each image")
        # Where a teacher alone counts, labels are nothing but as many as there are images.
        labels = torch.from_numpy(np.zeros(len(batch), np.int64) if batch.labels is None else batch.labels)
        yield given_of(run.executor.graph, batch.inputs, run.group.device), labels.to(run.group.device)
