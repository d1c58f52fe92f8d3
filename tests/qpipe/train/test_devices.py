"""Training on a GPU is training on the CPU: the same evaluation to the bit, the same integers, nothing left behind.

On the device "meta" a tensor has a shape and no numbers, and none of another device may meet it: what would stay on the
CPU is found without a GPU.
"""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from qpipe.settings import FinetuneSettings
from qpipe.settings.recipes import resolve
from qpipe.settings.training import BatchNormMode, Precision
from qpipe.train import loop
from qpipe.train.companion import Companion
from qpipe.train.companions.make import make_companions
from qpipe.train.executor import Executor
from qpipe.train.loop import train
from qpipe.train.together import Together
from support.devices import each_device
from support.run import assert_exact
from support.training import (
    SUMMED_OTHERWISE,
    InterruptedRunError,
    StopAfter,
    assert_same,
    batch,
    bright_images,
    cross_entropy,
    state,
    state_of,
)
from support.zoo.trainable import IMAGE_SHAPE, logits, network, plain_qdq, qdq, residual_qdq, weighted

COMPANY: dict[str, dict[str, Any]] = {
    "alone": {},
    "ag and ssp": {"method": "ag", "ssp": True},
    "losses and a copy": {"additional_losses": 0.01, "joint_distillation": 0.1},
    "fade and ema": {"fade": 0.5, "ema": 0.9},
    "oscillations": {"dampen_oscillations": 0.1, "freeze_oscillations": 0.01},
    "scales": {"train_scales": 1e5},
    "mls": {"arithmetic": "mls", "recipe": "faq-8bit"},
}
WITHOUT_VALUES = [name for name in COMPANY if name not in {"scales", "mls"}]
"""What needs none of its tensors' values on the way: scales follow their offsets, MLS draws."""
SHORT: dict[str, Any] = {"epochs": 2, "lr": 0.01, "batch_size": 16, "crop_padding": 1, "flip": True}
each_company = pytest.mark.parametrize("told", COMPANY.values(), ids=COMPANY.keys())


def made(told: dict[str, Any]) -> tuple[FinetuneSettings, Executor, list[Companion]]:
    """A run on the network without skips, in the company that it is told."""
    settings = resolve(FinetuneSettings(**told, **SHORT))
    model = plain_qdq()
    executor = Executor(model, batch_norm="batch")
    return settings, executor, make_companions(executor, model, residual_qdq(), settings, IMAGE_SHAPE)


@each_device
@pytest.mark.parametrize("mode", ["running", "batch"])
def test_evaluation_is_the_files(device: str, mode: BatchNormMode) -> None:
    model = qdq()
    executor = Executor(model, batch_norm=mode)
    assert_exact(model, network()[0].inputs(seed=2), executor.to(device))


@each_device
def test_weights_are_rounded_to_the_same_integers(device: str) -> None:
    """By numpy on the CPU, and by torch elsewhere."""
    own, other = Executor(residual_qdq()), Executor(residual_qdq()).to(device)
    for here, there in zip(weighted(own), weighted(other), strict=True):
        assert torch.equal(here.quantized_weight(), there.quantized_weight().cpu())


@each_device
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_the_cpus(device: str, precision: Precision) -> None:
    x, labels = batch()
    gradients = []
    for place in ("cpu", device):
        executor = Executor(residual_qdq(), batch_norm="batch", precision=precision).to(place).train()
        F.cross_entropy(logits(executor, x.to(place)), labels.to(place)).backward()
        gradients.append(torch.cat([p.grad.flatten().cpu() for p in executor.parameters() if p.grad is not None]))
    error = torch.linalg.vector_norm(gradients[1] - gradients[0]) / torch.linalg.vector_norm(gradients[0])
    # Of bfloat16, 8 bits of mantissa in some ten operations, and ties that round the other way.
    assert error < (SUMMED_OTHERWISE if precision == "fp32" else 0.1)


@each_device
@each_company
def test_a_run_goes_on_to_the_same_bits(
    device: str, told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "together", lambda: Together(0, 1, torch.device(device)))
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    source, path = bright_images(), tmp_path / "run.safetensors"

    def run(stop: int | None, **options: Any) -> dict[str, torch.Tensor]:
        settings, executor, companions = made(told)
        train(executor, source, settings, companions=companions, observers=[StopAfter(stop)], **options)
        return {**state_of(executor), **state(companions)}

    whole = run(None)
    with pytest.raises(InterruptedRunError):
        run(6, checkpoint=path, checkpoint_every=1)
    assert_same(run(None, checkpoint=path, resume=True), whole)


@pytest.mark.parametrize("company", WITHOUT_VALUES)
def test_nothing_stays_behind(company: str) -> None:
    _, executor, companions = made(COMPANY[company])
    x, labels = (each.to("meta") for each in batch())
    for module in (executor, *companions):
        module.to("meta").train()
    for companion in companions:
        companion.begin_update(Fraction(0), 0)
    loss = cross_entropy(executor.answer(x), labels, x)
    extra = [companion.extra_loss(cross_entropy, labels, x) for companion in companions]
    total = sum((part for part in extra if part is not None), start=loss)
    total.backward()
    for companion in companions:
        companion.end_update()
    assert all(p.grad is None or p.grad.is_meta for p in executor.parameters())
