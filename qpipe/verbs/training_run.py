"""A run of `qpipe.finetune`: everything that may be refused is looked at first, then it trains and is written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import onnx_ir as ir
from pydantic import JsonValue

from qpipe import progress
from qpipe.data import DataLike, Source
from qpipe.data.carried import store_preprocess
from qpipe.data.subset import hold_out
from qpipe.errors import RecipeError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import COMPARISON, FLOAT_PHASE, TRAINING, AppliedPass, add_provenance, set_json
from qpipe.ir.graph.numbers import check_numbers
from qpipe.json_values import to_plain
from qpipe.processes import is_main_process
from qpipe.settings import FinetuneSettings, TaskSettings
from qpipe.settings.recipes import resolve
from qpipe.tasks.metrics import metric_of as empty_metric
from qpipe.tasks.task import Task
from qpipe.train.answer import answering
from qpipe.train.companion import Companion, Loss
from qpipe.train.companions.best_epoch import BestEpoch
from qpipe.train.companions.make import make_companions
from qpipe.train.diagnostics.collect import Diagnostics
from qpipe.train.diagnostics.make import make_diagnostics
from qpipe.train.executor import Executor
from qpipe.train.faq import with_augmentation
from qpipe.train.loop import train
from qpipe.train.low_bit_metric import low_bit_metric
from qpipe.train.run import Epoch, Judged
from qpipe.train.schedule import check_stream
from qpipe.train.together import together
from qpipe.train.write_back import write_back
from qpipe.verbs.phases import metric_of, warn_of_float, warn_of_training
from qpipe.verbs.purpose import task_of
from qpipe.verbs.runnable import OnnxModel
from qpipe.verbs.sources import PreprocessLike, about, model_name, open_source, preprocess_of
from qpipe.verbs.subject import Subject, check_subject, make_subject, trains_float
from qpipe.verbs.teacher import check_teacher, load_teacher, loss_of

LOW_BIT_PHASE: Final = "trained, low-bit forward"
"""What a report calls a float network that is judged as it was trained."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """name: the given network's, for messages. settings: what the user said and the recipe come to.

    executor: of the subject's network. test: the images that are judged on, None where nothing is.
    """

    name: str
    settings: FinetuneSettings
    seed: int
    subject: Subject
    source: Source
    test: Source | None
    executor: Executor
    companions: Sequence[Companion]
    observers: Sequence[Diagnostics]
    task: Task
    loss: Loss

    def carry_out(self, *, checkpoint: Path | None, resume: bool) -> ir.Model:
        """Train, and give the network with a record of the run in its metadata."""
        phases = self._phases()
        history = train(
            self.executor,
            self.source,
            self.settings,
            seed=self.seed,
            checkpoint=checkpoint,
            resume=resume,
            checkpoint_every=self.settings.checkpoint_every,
            observers=self.observers,
            companions=self.companions,
            evaluate=None if self.settings.evaluate_every is None else self._count,
            evaluate_every=self.settings.evaluate_every or 1,
            task=self.task,
            loss=self.loss,
        )
        write_back(self.executor)
        # Other weights take the last ones' places when the last epoch has been judged.
        is_another = bool(self.settings.ema or self.settings.hold_out or self.settings.estimate_statistics)
        counted = Judged(None) if is_another else Judged(history[-1].test_accuracy, history[-1].low_bit_accuracy)
        is_judged = self.settings.evaluate or (is_another and self.settings.evaluate_every is not None)
        after = self._after() if is_judged and counted.metric is None else counted
        warn_of_training(phases.values(), after.metric, self.task)
        self._record(history, phases, after)
        return self.subject.network

    def _phases(self) -> dict[str, float | None]:
        """How the networks on the way to the one that trains are judged."""
        if not self.settings.evaluate:
            return {}
        phases = {phase: self._judged(network) for phase, network in self.subject.phases.items()}
        warn_of_float(phases.get(FLOAT_PHASE), self.task)
        return phases

    def _count(self, trained: Executor) -> Judged:
        write_back(trained)
        return self._after()

    def _after(self) -> Judged:
        """Of the network as it was written back."""
        network, is_low_bit = self.subject.network, self.subject.is_float and self.settings.arithmetic == "mls"
        found = self._judged(network)
        if not is_low_bit or self.test is None or not is_main_process():
            return Judged(found)
        return Judged(found, low_bit_metric(network, self.settings, self.test, self.task))

    def _judged(self, network: ir.Model) -> float | None:
        return None if self.test is None else metric_of(network, self.test, self.task, self.name)

    def _record(self, history: Sequence[Epoch], phases: dict[str, float | None], after: Judged) -> None:
        network, told = self.subject.network, self._told()
        trained = {"trained": after.metric} | ({} if after.low_bit is None else {LOW_BIT_PHASE: after.low_bit})
        add_provenance(network, AppliedPass(name="finetune", arguments=told))
        record: dict[str, JsonValue] = {
            "epochs": [asdict(epoch) for epoch in history],
            "accuracy_before": next(reversed(phases.values()), None),
            "accuracy_after": after.metric,
            "accuracy_low_bit": after.low_bit,
            "phases": [{"phase": phase, "accuracy": top1} for phase, top1 in {**phases, **trained}.items()],
            "settings": told,
            "task": self.task.to_json(),
        }
        for companion in self.companions:
            record |= companion.facts()
        if self.observers and is_main_process():
            record["diagnostics"] = to_plain(self.observers[0].result())
        set_json(network, TRAINING, record)
        # Of the network as it was calibrated.
        set_json(network, COMPARISON, None)

    def _told(self) -> dict[str, JsonValue]:
        """The run's values as they were used, for the file."""
        values = self.settings.model_dump(mode="json", include=set(self.settings.of_training()))
        return {"recipe": self.settings.recipe, **values, "seed": self.seed}


def prepare(
    asked: FinetuneSettings,
    model: OnnxModel,
    data: DataLike,
    *,
    seed: int,
    preprocess: PreprocessLike,
    purpose: TaskSettings,
) -> TrainingRun:
    """Everything of a run but its training; raises what `qpipe.finetune` does."""
    if asked.arithmetic is None or asked.recipe is not None:
        # What is wrong with the options is said before the network is loaded; else its kind decides on the recipe.
        resolve(asked, strips=asked.plain)
    loaded = load_model(model)
    is_float = trains_float(asked, loaded)
    # Before the network may be calibrated.
    begun = resolve(asked, strips=asked.plain, is_float=is_float)
    teacher = load_teacher(begun)
    subject = make_subject(begun, loaded, model, data, seed=seed, preprocess=preprocess)
    run = resolve(asked, strips=subject.is_stripped, is_float=is_float)
    network = subject.network
    pixels = preprocess_of(network, preprocess)
    check_subject(subject, run)
    check_teacher(run, teacher, network, pixels, is_stripped=subject.is_stripped)
    source, held = _divided(open_source(network, data, "train", pixels), run, seed)
    run = with_augmentation(run, source)
    store_preprocess(network, pixels)
    name = model_name(model)
    with about(name):
        check_numbers(network.graph)
        task = task_of(network, source, purpose, trains=True, is_taught=run.teacher is not None)
        executor = answering(network, task, source.image_shape, run)
        check_stream(run, source.size)
        companions = make_companions(executor, network, subject.origin, run, source.image_shape, seed, task)
        if held is not None:
            companions.append(_best_epoch(executor, network, held, task, name))
    progress.say(task.said)
    is_judged = run.evaluate or run.evaluate_every is not None
    return TrainingRun(
        name=name,
        settings=run,
        seed=seed,
        subject=subject,
        source=source,
        test=open_source(network, data, "test", pixels) if is_judged and task.metric is not None else None,
        executor=executor,
        companions=companions,
        observers=[make_diagnostics(executor, source, run)] if run.diagnose else [],
        task=task,
        loss=loss_of(run, task, subject.origin, teacher),
    )


def _divided(source: Source, run: FinetuneSettings, seed: int) -> tuple[Source, Source | None]:
    """What is trained on, and what is held out of it."""
    return hold_out(source, run.hold_out, seed) if run.hold_out else (source, None)


def _best_epoch(executor: Executor, network: ir.Model, held: Source, task: Task, name: str) -> BestEpoch:
    """Judged on onnxruntime; RecipeError for a task without a metric."""
    metric = empty_metric(task, name)
    if metric is None:
        raise RecipeError(f"hold_out: {len(held)} images, but the task has no metric, expected one (--metric)")

    def judge() -> float | None:
        device = together().device
        write_back(executor.cpu().eval())
        found = metric_of(network, held, task, name)
        executor.to(device).train()
        return found

    return BestEpoch(executor, judge, rises=metric.rises)
