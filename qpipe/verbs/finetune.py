"""QDQ network -> trained QDQ network: `qpipe.finetune`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir

from qpipe.data import DataLike
from qpipe.errors import OutputError, QpipeError
from qpipe.finetune_recipes import Draws, Fragments, Method, Optimizer, Precision, RecipeName, ScheduleName
from qpipe.ir.files.save import check_output, save_model
from qpipe.processes import is_main_process
from qpipe.settings import FinetuneSettings, validated
from qpipe.verbs.sources import ModelPath, PreprocessLike


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
    teacher: ModelPath | None = None,
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
    teacher = str(teacher) if isinstance(teacher, os.PathLike) else teacher
    arguments = {name: value for name, value in locals().items() if name in FinetuneSettings.model_fields}
    from qpipe.verbs.training_run import prepare

    kept = None if checkpoint is None else Path(checkpoint)
    check_output(output, sources=(model, data, teacher))
    _check_checkpoint(kept, output, resume=resume, every=checkpoint_every)
    asked = validated(FinetuneSettings, arguments, lambda location: str(location[0]))
    training = prepare(asked, model, data, seed=seed, preprocess=preprocess)
    network = training.carry_out(checkpoint=kept, resume=resume)
    if output is not None and is_main_process():
        save_model(network, output)
    return network


def _check_checkpoint(checkpoint: Path | None, output: ModelPath | None, *, resume: bool, every: int | None) -> None:
    """Raise OutputError or QpipeError, before any work, where it can't be written or is not there."""
    from qpipe.train.checkpoint import require_checkpoint

    check_output(checkpoint)
    if checkpoint is None and every is not None:
        raise QpipeError("--checkpoint-every: no checkpoint was named, expected --checkpoint FILE")
    if checkpoint is not None and not resume and is_main_process() and checkpoint.exists():
        raise OutputError(f"{checkpoint}: is there already; --resume goes on from it, another name starts anew")
    if checkpoint is not None and output is not None and checkpoint.absolute() == Path(output).absolute():
        raise OutputError(f"{checkpoint}: is the output and the checkpoint, expected two files")
    if resume:
        require_checkpoint(checkpoint)
