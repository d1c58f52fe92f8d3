"""QDQ network -> trained QDQ network: `qpipe.finetune`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir
from pydantic import JsonValue

from passes.finalize import Finalize
from qpipe import progress
from qpipe.data import DataLike, Source
from qpipe.errors import DataError
from qpipe.ir.kind import require_qdq
from qpipe.ir.load import load_model
from qpipe.ir.metadata import AppliedPass, add_provenance, set_json
from qpipe.ir.save import check_output, save_model
from qpipe.runtime.accuracy import measure_accuracy
from qpipe.verbs.sources import ModelPath, PreprocessLike, model_name, open_source, preprocess_of, store_preprocess

TRAINING = "training"
"""Metadata: loss and accuracy of every epoch, and the test accuracy before and after."""


def finetune(
    model: ModelPath | onnx.ModelProto | ir.Model,
    data: DataLike,
    output: ModelPath | None = None,
    *,
    method: Literal["faq"] = "faq",
    epochs: int = 1,
    lr: float = 1e-4,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    batch_size: int = 128,
    seed: int = 0,
    batch_norm: Literal["running", "batch"] = "batch",
    crop_padding: int | None = None,
    flip: bool | None = None,
    evaluate: bool = True,
    checkpoint: ModelPath | None = None,
    resume: bool = False,
    preprocess: PreprocessLike = None,
) -> ir.Model:
    """Train a quantized network straight from its QDQ file. Source: FAQ, section 3.3.

    Args:
        model: what `calibrate` or an earlier `finetune` wrote.
        data: labelled; the training split is trained on, the test split evaluated.
        output: where to write the trained QDQ file.
        method: "faq".
        epochs, lr, momentum, weight_decay, batch_size, seed: of SGD; one seed, one result on one machine.
        batch_norm: the statistics by which training normalizes: the batch's own, or the file's running ones.
        crop_padding, flip: augmentation; by default an eighth of the side, and True, where the data are images.
        evaluate: count the test accuracy before and after, on onnxruntime.
        checkpoint, resume: a file that keeps the run's state after every epoch; go on from it.
        preprocess: what pixels go through; None is what the model carries.

    Returns:
        The trained QDQ model; its metadata `qpipe.training` hold losses and accuracies.

    Raises:
        ModelError, DataError, OutputError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> tuned = qpipe.finetune("net.qdq.onnx", "digits", "tuned.qdq.onnx", epochs=1, flip=False)
        >>> qpipe.inspect("tuned.qdq.onnx").kind
        'QDQ, trainable'
    """
    from qpipe.train.executor import Executor
    from qpipe.train.faq import default_augment
    from qpipe.train.loop import train
    from qpipe.train.run import TrainingSettings
    from qpipe.train.write_back import write_back

    check_output(output)
    network = load_model(model)
    require_qdq(network, model_name(model))
    settings = preprocess_of(network, preprocess)
    source = open_source(network, data, "train", settings)
    if source.size is not None and source.labels is None:
        raise DataError(f"{source.name}: no labels, expected one for each image")
    test = open_source(network, data, "test", settings) if evaluate else None
    run = TrainingSettings(
        epochs=epochs,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        batch_size=batch_size,
        seed=seed,
        augment=default_augment(source, crop_padding, flip),
        batch_norm=batch_norm,
    )
    before = None if test is None else _accuracy(network, test)
    executor = Executor(network, batch_norm=batch_norm)
    history = train(executor, source, run, checkpoint=None if checkpoint is None else Path(checkpoint), resume=resume)
    write_back(executor)
    store_preprocess(network, settings)
    after = None if test is None else _accuracy(network, test)
    arguments: dict[str, JsonValue] = {
        "method": method, "epochs": epochs, "lr": lr, "momentum": momentum, "weight_decay": weight_decay,
        "batch_size": batch_size, "seed": seed, "batch_norm": batch_norm,
        "crop_padding": run.augment.pad if run.augment else 0, "flip": bool(run.augment and run.augment.flip),
    }  # fmt: skip
    add_provenance(network, AppliedPass(name="finetune", arguments=arguments))
    record: list[JsonValue] = [asdict(epoch) for epoch in history]
    set_json(network, TRAINING, {"epochs": record, "accuracy_before": before, "accuracy_after": after})
    if output is not None:
        save_model(network, output)
    return network


def _accuracy(network: ir.Model, test: Source) -> float | None:
    """Top-1 of what would ship, of 1."""
    final = network.clone()
    Finalize()(final)
    batches = progress.track(test.batches(256), "evaluating", test.n_batches(256))
    return measure_accuracy([final], batches).models[0].top1
