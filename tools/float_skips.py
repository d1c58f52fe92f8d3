"""The paper's baseline: skips in floating point. No integer file has such, so the executor trains and counts it.

Of a ResNet-20 for CIFAR-10 whose skips are carried wider than its convolutions read them (`--skip-bits`), nothing on
the way from Add to Add is rounded but what convolutions read, in training and in evaluation. (A carrier between a
convolution and an Add, such as ResNet-18's pool behind the stem, keeps what it carries on its grid.)

Source: Zhuang et al., *Training Quantized Network with Auxiliary Gradient Module*, section 1 and Table 1.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from qpipe import progress
from qpipe.data import Source
from qpipe.ir.files.load import load_model
from qpipe.settings import FinetuneSettings
from qpipe.settings.recipes import resolve
from qpipe.train.executor import Executor
from qpipe.train.faq import with_augmentation
from qpipe.train.loop import train
from qpipe.verbs.sources import open_source, preprocess_of

BATCH = 256
PLAIN_TRAINING = ("recipe", "epochs", "batch_size", "lr")


def with_float_skips(executor: Executor) -> Executor:
    """Let what an Add reads and gives be as it is, but for what convolutions read without a quantizer of their own."""
    steps = {step.gives: step for step in executor.steps}
    sums = [step for step in executor.steps if step.layer.op_type == "Add"]
    joined = {value for step in sums for value in (step.gives, *step.reads)}
    multiplied = {value for step in executor.products() for value in step.reads}
    for value in joined - multiplied:
        steps[value].leave_unrounded()
    return executor


def train_and_count(start: Path, data: Path, checkpoint: Path, finetune: Mapping[str, Any], *, seed: int) -> float:
    """Top-1, of 1, over the test images, after `finetune`'s recipe; it goes on from the checkpoint if that is there.

    finetune: of a recipe without a teacher and without companions; ValueError for anything that would need more.
    """
    if more := finetune.keys() - PLAIN_TRAINING:
        raise ValueError(f"{', '.join(sorted(more))}: expected nothing but {', '.join(PLAIN_TRAINING)}")
    network = load_model(start)
    preprocess = preprocess_of(network, None)
    source, test = (open_source(network, data, split, preprocess) for split in ("train", "test"))
    settings = with_augmentation(resolve(FinetuneSettings(**finetune)), source)
    executor = with_float_skips(Executor(network, batch_norm=settings.batch_norm))
    train(executor, source, settings, seed=seed, checkpoint=checkpoint, resume=checkpoint.exists())
    return count(executor, test)


@torch.no_grad()
def count(executor: Executor, test: Source) -> float:
    """Top-1, of 1, of the executor in evaluation."""
    right = total = 0
    for batch in progress.track(test.batches(BATCH), "evaluating", test.n_batches(BATCH)):
        assert batch.labels is not None
        answers = executor(torch.from_numpy(batch.inputs))[0].flatten(1).argmax(1)
        right += int((answers == torch.from_numpy(batch.labels)).sum())
        total += len(batch.labels)
    return right / total
