"""QDQ network -> trained QDQ network, or float -> float: `qpipe.finetune`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import onnx
import onnx_ir as ir

from qpipe.data import DataLike
from qpipe.errors import OutputError, QpipeError
from qpipe.ir.files.lock import held
from qpipe.ir.files.outputs import check_output, check_outputs_differ, target_of
from qpipe.ir.files.save import save_model
from qpipe.ir.files.sizes import open_sizes
from qpipe.processes import is_main_process
from qpipe.settings import CheckpointSettings, FinetuneSettings, SeedSettings, TaskSettings
from qpipe.verbs.options import takes_options
from qpipe.verbs.sources import ModelPath, PreprocessLike


@takes_options
def finetune(
    model: ModelPath | onnx.ModelProto | ir.Model,
    data: DataLike,
    output: ModelPath | None = None,
    *,
    settings: FinetuneSettings,
    task: TaskSettings,
    seed: SeedSettings,
    checkpoint: CheckpointSettings,
    preprocess: PreprocessLike = None,
) -> ir.Model:
    """Train a quantized network straight from its QDQ file, or a float one. Source: FAQ, section 3.3; MLS, section 4.

    With an arithmetic a float network is trained as it is, from pretrained weights or from random ones: "float", or on
    low-bit operands, "mls". What is written is the float network, normalized, and both accuracies are told: its own,
    and that of the low-bit forward. The products of a QDQ file's training may be "mls" too; it evaluates as it is.

    Of several processes (torchrun, accelerate launch) each computes its share of every batch; the main one evaluates
    and writes.

    A recipe (`qpipe/settings/recipes.py`) is a whole run; what is given goes before what it says, and None gives
    nothing. The method "ag" is the auxiliary gradient module (AG, section 3.1), ssp AG's section 3.2, additional_losses
    its equation 3 and joint_distillation its equation 4. Networks are judged on onnxruntime.

    What the network is for (output_name, loss, metric) is derived from its outputs and the labels where these leave one
    reading, and said; a loss can also be a function of `(outputs, labels)`, torch tensors, that gives a number, and a
    metric one of all outputs and labels, numpy arrays.

    Args:
        model: what `calibrate` or an earlier `finetune` wrote; with `plain` a float network too, which is calibrated to
            8 bits; with an arithmetic a float network, which stays one (with `plain` too where that is "float").
        data: labelled, unless a teacher is given; the training split is trained on, the test split evaluated.
        output: where to write the trained file.
        preprocess: what pixels go through; None is what the model carries.

    Returns:
        The trained model; its metadata `qpipe.training` hold losses and accuracies.

    Raises:
        ModelError, DataError, RecipeError, OutputError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> tuned = qpipe.finetune("net.qdq.onnx", "digits", "tuned.qdq.onnx", epochs=1, flip=False)
        >>> qpipe.inspect("tuned.qdq.onnx").kind
        'QDQ, trainable'
    """
    from qpipe.verbs.training_run import prepare

    path = None if checkpoint.checkpoint is None else Path(checkpoint.checkpoint)
    if path is None and settings.checkpoint_every is not None:
        raise QpipeError("--checkpoint-every: no checkpoint was named, expected --checkpoint FILE")
    sources = (model, data, settings.teacher)
    check_output(output, sources=sources)
    _check_checkpoint(path, output, sources, resume=checkpoint.resume)
    with _alone(path):
        training = prepare(settings, model, data, seed=seed.seed, preprocess=preprocess, purpose=task)
        network = training.carry_out(checkpoint=path, resume=checkpoint.resume)
        open_sizes(network)
        if output is not None and is_main_process():
            _save(network, output, path)
    return network


def _check_checkpoint(
    path: Path | None, output: ModelPath | None, sources: tuple[object, ...], *, resume: bool
) -> None:
    """Raise OutputError or QpipeError, before any work, where it can't be written or is not there."""
    from qpipe.train.checkpoint import require_checkpoint

    if path is not None:
        if output is not None:
            check_outputs_differ(path, output, "the output and the checkpoint")
        if not resume and is_main_process() and target_of(path).exists():
            raise OutputError(f"{path}: is there already; --resume goes on from it, another name starts anew")
        # One that is resumed may lie in a folder that is read: it is no image.
        check_output(path, sources=() if resume else sources)
    if resume:
        require_checkpoint(path)


def _alone(checkpoint: Path | None) -> AbstractContextManager[None]:
    """For as long as it is held, no other run writes this checkpoint. Of several processes the main one holds it."""
    if checkpoint is None or not is_main_process():
        return nullcontext()
    target = target_of(checkpoint)
    return held(target.with_name(f".{target.name}.qpipe-lock"), str(checkpoint))


def _save(network: ir.Model, output: ModelPath, checkpoint: Path | None) -> None:
    """Write what was trained; where that fails, the checkpoint has it still."""
    try:
        save_model(network, output)
    except OutputError as error:
        kept = f"; {checkpoint} has the training, --resume goes on from it" if checkpoint else ""
        raise OutputError(f"{error}{kept}") from error
