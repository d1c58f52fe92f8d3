"""QDQ network -> trained QDQ network: `qpipe.finetune`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx
import onnx_ir as ir
from pydantic import JsonValue

from qpipe.data import DataLike
from qpipe.errors import OutputError, QpipeError
from qpipe.finetune_recipes import (
    Draws,
    Fragments,
    Method,
    Optimizer,
    Precision,
    RecipeName,
    ScheduleName,
    check_used,
    default_recipe,
    resolve,
)
from qpipe.ir.metadata import FLOAT_PHASE, TRAINING, AppliedPass, add_provenance, set_json
from qpipe.ir.save import check_output, save_model
from qpipe.json_values import to_plain
from qpipe.processes import is_main_process
from qpipe.settings import FinetuneSettings, validated
from qpipe.verbs.phases import accuracy_of, warn_of_float, warn_of_training
from qpipe.verbs.sources import ModelPath, PreprocessLike, open_source, preprocess_of, store_preprocess
from qpipe.verbs.subject import check_subject, make_subject
from qpipe.verbs.teacher import check_teacher, load_teacher, loss_of

if TYPE_CHECKING:
    from qpipe.train.executor import Executor
    from qpipe.train.run import TrainingSettings


def finetune(
    model: ModelPath | onnx.ModelProto | ir.Model,
    data: DataLike,
    output: ModelPath | None = None,
    *,
    method: Method = "faq",
    plain: bool = False,
    blocks: str = "*",
    recipe: RecipeName | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    schedule: ScheduleName | None = None,
    lr_end: float | None = None,
    milestones: Sequence[float] | None = None,
    grow_at: Sequence[float] | None = None,
    optimizer: Optimizer | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
    gradient_clip: float | None = None,
    teacher: str | None = None,
    teacher_weight: float | None = None,
    temperature: float | None = None,
    auxiliary_weight: float | None = None,
    layerwise: bool | None = None,
    ssp: bool | None = None,
    ssp_ratio: float | None = None,
    ssp_end: float | None = None,
    ssp_fragments: Fragments | None = None,
    ssp_draws: Draws | None = None,
    fade: float | None = None,
    additional_losses: float | None = None,
    joint_distillation: float | None = None,
    seed: int = 0,
    batch_norm: Literal["running", "batch"] = "batch",
    precision: Precision = "fp32",
    crop_padding: int | None = None,
    flip: bool | None = None,
    evaluate: bool = True,
    evaluate_every: int | None = None,
    diagnose: bool = False,
    checkpoint: ModelPath | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    preprocess: PreprocessLike = None,
) -> ir.Model:
    """Train a quantized network straight from its QDQ file. Source: FAQ, section 3.3.

    Of several processes (torchrun, accelerate launch) each computes its share of every batch; the main one evaluates
    and writes.

    Args:
        model: what `calibrate` or an earlier `finetune` wrote; with `plain` a float network too, which is calibrated to
            8 bits first.
        data: labelled; the training split is trained on, the test split evaluated.
        output: where to write the trained QDQ file.
        method: "faq", or "ag" with the auxiliary gradient module (AG, section 3.1).
        plain, blocks: strip the skips of the residual blocks whose names match, and train the plain network.
        recipe: a named one (`qpipe/finetune_recipes.py`); every argument up to seed that is None is as it says. None:
            "plain" where skips are stripped, else "faq-8bit" or "ag" by the method.
        epochs: passes over the images; the recipe's milestones keep their proportions.
        lr, schedule, lr_end, milestones: learning rate at first, how it falls, where to, and at which epochs.
        grow_at: epochs at which the batches of one update double.
        optimizer, momentum, weight_decay, batch_size: "sgd" or "adam" (which ignores momentum).
        gradient_clip: lambda of adaptive gradient clipping (`qpipe/train/gradient_clip.py`); 0 is none.
        teacher, teacher_weight, temperature: distil from "float" (the network before it was quantized), from an .onnx;
            "none" turns a recipe's teacher off.
        auxiliary_weight, layerwise: lambda of AG, and whether it has a branch at every convolution.
        ssp, ssp_ratio, ssp_end, ssp_fragments, ssp_draws: stochastic structured precision (AG, section 3.2).
        fade: the part of the run over which stripped skips fade away; 0 takes them away at once.
        additional_losses: alpha of a classifier's loss at the end of each downsampling block (AG, equation 3); the
            paper's is 0.01, and 0 is none.
        joint_distillation: beta of the distances to the features of a full-precision copy that trains along (AG,
            equation 4); the paper tells none, 0.1 is a start, and 0 is no copy.
        seed: one seed, one result on one machine.
        batch_norm: the statistics by which training normalizes: the batch's own, or the file's running ones.
        precision: of training's float tensors; what is evaluated and written is exact in both.
        crop_padding, flip: augmentation; by default an eighth of the side, and True, where the data are images.
        evaluate: count the test accuracy before and after, on onnxruntime.
        evaluate_every: count it after every so many epochs, too.
        diagnose: measure the noise of quantization while training, for `qpipe report`.
        checkpoint, checkpoint_every, resume: a file that keeps the run's state after every epoch, and after so many
            updates; go on from it.
        preprocess: what pixels go through; None is what the model carries.

    Returns:
        The trained QDQ model; its metadata `qpipe.training` hold losses and accuracies.

    Raises:
        ModelError, DataError, RecipeError, OutputError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> tuned = qpipe.finetune("net.qdq.onnx", "digits", "tuned.qdq.onnx", epochs=1, flip=False)
        >>> qpipe.inspect("tuned.qdq.onnx").kind
        'QDQ, trainable'
    """
    from qpipe.train.classes import check_classes
    from qpipe.train.companions.make import make_companions
    from qpipe.train.diagnostics.collect import Diagnostics, diagnostic_images
    from qpipe.train.executor import Executor
    from qpipe.train.faq import default_augment
    from qpipe.train.loop import train
    from qpipe.train.run import TrainingSettings
    from qpipe.train.schedule import check_stream
    from qpipe.train.write_back import write_back

    kept = None if checkpoint is None else Path(checkpoint)
    read = (model, data, teacher)
    check_output(output, sources=read)
    _check_checkpoint(kept, output, read, resume=resume, every=checkpoint_every)
    given = {
        "epochs": epochs, "lr": lr, "schedule": schedule, "lr_end": lr_end, "milestones": milestones,
        "grow_at": grow_at, "momentum": momentum, "weight_decay": weight_decay, "batch_size": batch_size,
        "gradient_clip": gradient_clip,
        "teacher": teacher, "teacher_weight": teacher_weight, "temperature": temperature, "optimizer": optimizer,
        "auxiliary_weight": auxiliary_weight, "layerwise": layerwise, "fade": fade, "ssp": ssp, "ssp_ratio": ssp_ratio,
        "ssp_end": ssp_end, "ssp_fragments": ssp_fragments, "ssp_draws": ssp_draws,
        "additional_losses": additional_losses, "joint_distillation": joint_distillation,
    }  # fmt: skip
    # Before anything that takes time.
    choices = {
        "method": method, "plain": plain, "blocks": blocks, "recipe": recipe,
        "batch_norm": batch_norm, "precision": precision, "crop_padding": crop_padding, "flip": flip,
        "evaluate": evaluate, "evaluate_every": evaluate_every, "diagnose": diagnose,
        "checkpoint_every": checkpoint_every,
    }  # fmt: skip
    validated(FinetuneSettings, given | choices, lambda location: str(location[0]))
    resolved = resolve(recipe or default_recipe(method, strips=plain), given)
    check_used(resolved, given, method=method, blocks=None if plain else blocks)
    teaching = load_teacher(resolved)
    subject = make_subject(model, data, plain=plain, blocks=blocks, seed=seed, preprocess=preprocess)
    recipe = recipe or default_recipe(method, strips=subject.is_stripped)
    resolved = resolve(recipe, given)
    check_used(resolved, given, method=method, blocks=None if plain else blocks)
    check_subject(subject, resolved, method, batch_norm)
    network = subject.network
    settings = preprocess_of(network, preprocess)
    check_teacher(resolved, teaching, network, settings, is_stripped=subject.is_stripped)
    source = open_source(network, data, "train", settings)
    test = open_source(network, data, "test", settings) if evaluate or evaluate_every else None
    run = TrainingSettings(
        **vars(resolved),
        method=method,
        seed=seed,
        augment=default_augment(source, crop_padding, flip),
        batch_norm=batch_norm,
        precision=precision,
    )
    executor = Executor(network, batch_norm=batch_norm, precision=precision)
    check_classes(executor, source)
    check_stream(run, source.size)
    companions = make_companions(executor, network, subject.origin, run, source.image_shape)
    observers = [Diagnostics(network, diagnostic_images(source))] if diagnose else []

    def count(trained: Executor) -> float | None:
        write_back(trained)
        return None if test is None else accuracy_of(network, test)

    phases: dict[str, float | None] = {}
    if evaluate and test is not None:
        phases = {phase: accuracy_of(at, test) for phase, at in subject.phases.items()}
        warn_of_float(phases.get(FLOAT_PHASE), network)
    history = train(
        executor,
        source,
        run,
        checkpoint=kept,
        resume=resume,
        checkpoint_every=checkpoint_every,
        observers=observers,
        companions=companions,
        evaluate=None if evaluate_every is None else count,
        evaluate_every=evaluate_every or 1,
        loss=loss_of(run, subject.origin, teaching),
    )
    write_back(executor)
    store_preprocess(network, settings)
    after = history[-1].test_accuracy
    if evaluate and test is not None and after is None:
        after = accuracy_of(network, test)
    warn_of_training(phases.values(), after, network)
    told_settings = _told(run, recipe)
    add_provenance(network, AppliedPass(name="finetune", arguments=told_settings))
    record: dict[str, JsonValue] = {
        "epochs": [asdict(epoch) for epoch in history],
        "accuracy_before": next(reversed(phases.values()), None),
        "accuracy_after": after,
        "phases": [{"phase": phase, "accuracy": top1} for phase, top1 in {**phases, "trained": after}.items()],
        "settings": told_settings,
    }
    if observers and is_main_process():
        record["diagnostics"] = to_plain(observers[0].result())
    set_json(network, TRAINING, record)
    if output is not None and is_main_process():
        save_model(network, output)
    return network


def _check_checkpoint(
    checkpoint: Path | None, output: ModelPath | None, read: Sequence[object], *, resume: bool, every: int | None
) -> None:
    """Raise OutputError or QpipeError, before any work, where it can't be written or is not there."""
    from qpipe.train.checkpoint import require_checkpoint

    check_output(checkpoint, sources=read)
    if checkpoint is None and every is not None:
        raise QpipeError("--checkpoint-every: no checkpoint was named, expected --checkpoint FILE")
    if checkpoint is not None and not resume and is_main_process() and checkpoint.exists():
        raise OutputError(f"{checkpoint}: is there already; --resume goes on from it, another name starts anew")
    if checkpoint is not None and output is not None and checkpoint.absolute() == Path(output).absolute():
        raise OutputError(f"{checkpoint}: is the output and the checkpoint, expected two files")
    if resume:
        require_checkpoint(checkpoint)


def _told(run: TrainingSettings, recipe: str) -> dict[str, JsonValue]:
    """The run's values as they were used, for the file."""
    values = vars(run) | {
        "milestones": [float(epoch) for epoch in run.milestones],
        "grow_at": [float(epoch) for epoch in run.grow_at],
        "ssp_end": float(run.ssp_end),
        "crop_padding": run.augment.pad if run.augment else 0,
        "flip": bool(run.augment and run.augment.flip),
    }
    del values["augment"]
    return {"recipe": recipe, **{name: to_plain(value) for name, value in values.items()}}
