"""A run of `qpipe.finetune`: everything that may be refused is looked at first, then it trains and is written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import onnx_ir as ir
from pydantic import JsonValue

from qpipe.data import DataLike, Source
from qpipe.data.carried import store_preprocess
from qpipe.finetune_recipes import FinetuneRecipe, check_used, default_recipe, resolve
from qpipe.ir.files.metadata import FLOAT_PHASE, TRAINING, AppliedPass, add_provenance, set_json
from qpipe.json_values import to_plain
from qpipe.processes import is_main_process
from qpipe.settings import FinetuneSettings
from qpipe.train.classes import check_classes
from qpipe.train.companion import Companion, Loss
from qpipe.train.companions.make import make_companions
from qpipe.train.diagnostics.collect import Diagnostics, diagnostic_images
from qpipe.train.executor import Executor
from qpipe.train.faq import default_augment
from qpipe.train.loop import train
from qpipe.train.run import Epoch, TrainingSettings
from qpipe.train.schedule import check_stream
from qpipe.train.write_back import write_back
from qpipe.verbs.phases import accuracy_of, warn_of_float, warn_of_training
from qpipe.verbs.sources import PreprocessLike, about, model_name, open_source, preprocess_of
from qpipe.verbs.subject import AnyModel, Subject, check_subject, make_subject
from qpipe.verbs.teacher import check_teacher, load_teacher, loss_of


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """asked: what the user said. settings: what that and the recipe of this name come to.

    executor: of the subject's network. test: the images that are counted on, None where nothing is counted.
    """

    asked: FinetuneSettings
    recipe: str
    settings: TrainingSettings
    subject: Subject
    source: Source
    test: Source | None
    executor: Executor
    companions: Sequence[Companion]
    observers: Sequence[Diagnostics]
    loss: Loss

    def carry_out(self, *, checkpoint: Path | None, resume: bool) -> ir.Model:
        """Train, and give the network with a record of the run in its metadata."""
        phases = self._phases()
        history = train(
            self.executor,
            self.source,
            self.settings,
            checkpoint=checkpoint,
            resume=resume,
            checkpoint_every=self.asked.checkpoint_every,
            observers=self.observers,
            companions=self.companions,
            evaluate=None if self.asked.evaluate_every is None else self._count,
            evaluate_every=self.asked.evaluate_every or 1,
            loss=self.loss,
        )
        write_back(self.executor)
        after = history[-1].test_accuracy
        if self.asked.evaluate and after is None:
            after = self._accuracy_of(self.subject.network)
        warn_of_training(phases.values(), after, self.subject.network)
        self._record(history, phases, after)
        return self.subject.network

    def _phases(self) -> dict[str, float | None]:
        """Top-1 of the networks on the way to the one that trains."""
        if not self.asked.evaluate:
            return {}
        phases = {phase: self._accuracy_of(network) for phase, network in self.subject.phases.items()}
        warn_of_float(phases.get(FLOAT_PHASE), self.subject.network)
        return phases

    def _count(self, trained: Executor) -> float | None:
        write_back(trained)
        return self._accuracy_of(self.subject.network)

    def _accuracy_of(self, network: ir.Model) -> float | None:
        return None if self.test is None else accuracy_of(network, self.test)

    def _record(self, history: Sequence[Epoch], phases: dict[str, float | None], after: float | None) -> None:
        network, told = self.subject.network, _told(self.settings, self.recipe)
        add_provenance(network, AppliedPass(name="finetune", arguments=told))
        record: dict[str, JsonValue] = {
            "epochs": [asdict(epoch) for epoch in history],
            "accuracy_before": next(reversed(phases.values()), None),
            "accuracy_after": after,
            "phases": [{"phase": phase, "accuracy": top1} for phase, top1 in {**phases, "trained": after}.items()],
            "settings": told,
        }
        if self.observers and is_main_process():
            record["diagnostics"] = to_plain(self.observers[0].result())
        set_json(network, TRAINING, record)


def prepare(
    asked: FinetuneSettings, model: AnyModel, data: DataLike, *, seed: int, preprocess: PreprocessLike
) -> TrainingRun:
    """Everything of a run but its training; raises what `qpipe.finetune` does."""
    given = {field.name: getattr(asked, field.name) for field in fields(FinetuneRecipe)}
    # Before the network is loaded, and may be calibrated.
    teacher = load_teacher(_resolved(asked, given, strips=asked.plain)[1])
    subject = make_subject(model, data, plain=asked.plain, blocks=asked.blocks, seed=seed, preprocess=preprocess)
    recipe, run = _resolved(asked, given, strips=subject.is_stripped)
    network = subject.network
    pixels = preprocess_of(network, preprocess)
    check_subject(subject, run, asked.method, asked.batch_norm)
    check_teacher(run, teacher, network, pixels, is_stripped=subject.is_stripped)
    source = open_source(network, data, "train", pixels)
    counts = asked.evaluate or asked.evaluate_every
    settings = TrainingSettings(
        **vars(run),
        method=asked.method,
        seed=seed,
        augment=default_augment(source, asked.crop_padding, asked.flip),
        batch_norm=asked.batch_norm,
        precision=asked.precision,
    )
    store_preprocess(network, pixels)
    with about(model_name(model)):
        executor = Executor(network, batch_norm=asked.batch_norm, precision=asked.precision)
        check_classes(executor, source)
        check_stream(run, source.size)
        companions = make_companions(executor, network, subject.origin, settings, source.image_shape)
    return TrainingRun(
        asked=asked,
        recipe=recipe,
        settings=settings,
        subject=subject,
        source=source,
        test=open_source(network, data, "test", pixels) if counts else None,
        executor=executor,
        companions=companions,
        observers=[Diagnostics(network, diagnostic_images(source))] if asked.diagnose else [],
        loss=loss_of(settings, subject.origin, teacher),
    )


def _resolved(asked: FinetuneSettings, given: Mapping[str, object], *, strips: bool) -> tuple[str, FinetuneRecipe]:
    """The name of the recipe and its values with what is given in their place; RecipeError for what has no effect."""
    name = asked.recipe or default_recipe(asked.method, strips=strips)
    run = resolve(name, given)
    check_used(run, given, method=asked.method, blocks=None if asked.plain else asked.blocks)
    return name, run


def _told(settings: TrainingSettings, recipe: str) -> dict[str, JsonValue]:
    """The run's values as they were used, for the file."""
    values = vars(settings) | {
        "milestones": [float(epoch) for epoch in settings.milestones],
        "grow_at": [float(epoch) for epoch in settings.grow_at],
        "ssp_end": float(settings.ssp_end),
        "crop_padding": settings.augment.pad if settings.augment else 0,
        "flip": bool(settings.augment and settings.augment.flip),
    }
    del values["augment"]
    return {"recipe": recipe, **{name: to_plain(value) for name, value in values.items()}}
