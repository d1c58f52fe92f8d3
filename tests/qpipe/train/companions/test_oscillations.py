"""Oscillating weights: their frequency by a reference that goes weight by weight, what is frozen, and the loss."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qpipe
from qpipe.data import Source
from qpipe.errors import ModelError
from qpipe.train.companion import Companion
from qpipe.train.companions.fresh_statistics import FreshStatistics
from qpipe.train.companions.make import make_companions
from qpipe.train.companions.oscillations import (
    FIRST_THRESHOLD,
    MOMENTUM,
    DampenedOscillations,
    FrozenOscillations,
)
from qpipe.train.executor import Executor
from qpipe.train.loop import train
from qpipe.train.observer import Observer
from qpipe.train.weighted import WeightedLayer
from qpipe.train.write_back import write_back
from support.run import assert_exact
from support.training import (
    SETTINGS,
    InterruptedRunError,
    StopAfter,
    assert_same,
    batch,
    bright_images,
    cross_entropy,
    replace,
    state_of,
)
from support.zoo.trainable import IMAGE_SHAPE, residual_qdq, two_blocks

IN_FLOAT32 = 1e-5
"""Relative: some dozens of moves of an average, each rounded to 2**-24."""
NEARER = 0.75
"""Of the squared distance without: by a loss that is as strong as it may be for sixteen updates, 0.61."""
SETTLED = replace(SETTINGS, lr=0.2, epochs=4)
"""Sixteen updates at a rate at which weights of 4 bits change their codes."""


@pytest.fixture(scope="module")
def source() -> Source:
    return bright_images()


def low_layers(executor: Executor) -> list[WeightedLayer]:
    """Of 4 bits: all but the first convolution and the Gemm."""
    return [layer for layer in executor.weighted() if layer.quantizer is not None and layer.quantizer.format.bits == 4]


class Reference:
    """Of one weight, in Python's own numbers."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.exponent = self.direction = 0
        self.frequency = self.average = 0.0
        self.held: float | None = None

    def see(self, code: int, exponent: int, threshold: float) -> None:
        if self.code is None:
            self.average = code
        else:
            is_same = exponent == self.exponent
            change = (code > self.code) - (code < self.code) if is_same else 0
            is_oscillation = change != 0 and change == -self.direction
            self.frequency = MOMENTUM * is_oscillation + (1 - MOMENTUM) * self.frequency
            self.direction = change or self.direction
            average = min(max(self.average * 2.0 ** (self.exponent - exponent), -7), 7)
            self.average = MOMENTUM * code + (1 - MOMENTUM) * average
        self.code, self.exponent = code, exponent
        if self.held is None and self.frequency > threshold:
            self.held = round(self.average) * 2.0**exponent


def test_frequencies_and_what_is_frozen_are_those_of_the_paper() -> None:
    executor = Executor(residual_qdq(), batch_norm="batch").train()
    companion = FrozenOscillations(executor, threshold=0.03)
    layers, images = low_layers(executor), batch()[0]
    start = [layer.weight.detach().clone() for layer in layers]
    rng, count = np.random.default_rng(0), 40
    references = [[Reference() for _ in range(count)] for _ in layers]
    exponents = set()
    for update in range(24):
        with torch.no_grad():
            for layer, weight in zip(layers, start, strict=True):
                noise = torch.from_numpy(rng.standard_normal(weight.shape).astype(np.float32))
                # Now and then channels grow, and their steps with them.
                layer.weight.copy_((weight + 0.3 * weight.std() * noise) * (2 if 9 < update < 15 else 1))
        executor.answer(images)
        companion.begin_update(Fraction(1), update)
        used = [(layer.weight_in_use().detach().numpy(), layer.quantizer.exponent) for layer in layers]
        companion.end_update()
        for index, (values, exponent) in enumerate(used):
            channels = np.broadcast_to(exponent.numpy().reshape(-1, 1, 1, 1), values.shape)
            exponents.add((index, int(exponent[0])))
            for i, reference in enumerate(references[index]):
                own = int(channels.flat[i])
                reference.see(int(values.flat[i] * 2.0**-own), own, 0.03)
    assert len(exponents) > len(layers)
    for index, (layer, those) in enumerate(zip(layers, references, strict=True)):
        found = {name: companion.get_buffer(f"{name}{index}").numpy().flat for name in ("frequency", "average", "held")}
        np.testing.assert_allclose(found["frequency"][:count], [r.frequency for r in those], rtol=IN_FLOAT32, atol=0)
        np.testing.assert_allclose(found["average"][:count], [r.average for r in those], rtol=IN_FLOAT32, atol=1e-6)
        is_held = companion.get_buffer(f"is_held{index}").numpy().flat[:count]
        assert list(is_held) == [reference.held is not None for reference in those]
        assert 0 < sum(is_held) < count
        for i in np.flatnonzero(is_held):
            assert found["held"][i] == those[i].held == layer.weight.detach().numpy().flat[i]


class Held(Observer):
    """What is frozen must stay, from update to update."""

    def __init__(self, executor: Executor, companion: FrozenOscillations) -> None:
        self._layers, self._companion = low_layers(executor), companion
        self.most = 0

    def after_update(self, executor: Executor, step: int) -> None:
        count = 0
        for index, layer in enumerate(self._layers):
            is_held = self._companion.get_buffer(f"is_held{index}")
            count += int(is_held.sum())
            assert torch.equal(layer.weight[is_held], self._companion.get_buffer(f"held{index}")[is_held])
        assert count >= self.most
        self.most = count


def run(source: Source, threshold: float = 0.005, **options: Any) -> tuple[Executor, FrozenOscillations]:
    executor = Executor(residual_qdq(), batch_norm="batch")
    companion = FrozenOscillations(executor, threshold=threshold)
    train(executor, source, SETTLED, companions=[companion], **options)
    return executor, companion


def facts(companion: Companion) -> dict[str, int]:
    found: Any = companion.facts()["oscillations"]
    return dict(found)


def test_a_run_freezes_and_is_exact(source: Source) -> None:
    model = residual_qdq()
    executor = Executor(model, batch_norm="batch")
    companion = FrozenOscillations(executor, threshold=0.005)
    observer = Held(executor, companion)
    train(executor, source, SETTLED, companions=[companion], observers=[observer])
    found = facts(companion)
    assert found["weights"] == sum(layer.weight.numel() for layer in low_layers(executor))
    assert 0 < found["frozen"] == observer.most <= found["weights"]
    write_back(executor)
    assert_exact(model, batch()[0].numpy(), executor)
    assert qpipe.inspect(qpipe.export(model)).kind  # its gate compares every integer


@pytest.mark.parametrize("stop", [5, 13])
def test_resuming_changes_nothing(source: Source, tmp_path: Path, stop: int) -> None:
    path, (whole, companion) = tmp_path / "run.safetensors", run(source)
    options: dict[str, Any] = {"checkpoint": path, "checkpoint_every": 1}
    with pytest.raises(InterruptedRunError):
        run(source, observers=[StopAfter(stop)], **options)
    again, its = run(source, observers=[StopAfter()], resume=True, **options)
    assert_same(state_of(again), state_of(whole))
    assert_same(state_of(its), state_of(companion))
    assert facts(companion)["frozen"]


def test_the_threshold_falls_along_half_a_cosine() -> None:
    companion = FrozenOscillations(Executor(residual_qdq()), threshold=0.02)
    found = []
    for done in (Fraction(0), Fraction(1, 3), Fraction(1, 2), Fraction(1)):
        companion.begin_update(done, 0)
        found.append(companion._threshold)
    assert found == pytest.approx([FIRST_THRESHOLD, 0.08, 0.06, 0.02], rel=1e-12)
    companion = FrozenOscillations(Executor(residual_qdq()), threshold=0.3)
    companion.begin_update(Fraction(0), 0)
    assert companion._threshold == 0.3


@pytest.mark.parametrize(("done", "part"), [(Fraction(1, 2), 0.5), (Fraction(1), 1.0)])
def test_the_loss_draws_weights_to_their_codes(done: Fraction, part: float) -> None:
    executor = Executor(residual_qdq(), batch_norm="batch").train()
    companion = DampenedOscillations(executor, weight=0.25)
    images, labels = batch()
    executor.answer(images)
    companion.begin_update(done, 0)
    loss = companion.extra_loss(cross_entropy, labels, images)
    assert loss is not None
    loss.backward()
    expected = 0.0
    for layer in executor.weighted():
        if layer not in low_layers(executor):
            assert layer.weight.grad is None
            continue
        weight, rounded = layer.weight.detach(), layer.weight_in_use().detach()
        assert layer.quantizer is not None
        limit = 7 * 2.0 ** layer.quantizer.exponent.float().reshape(-1, 1, 1, 1)
        is_within = weight.abs() <= limit
        error = torch.where(is_within, weight, weight.sign() * limit) - rounded
        expected += float(error.double().square().sum())
        gradient = torch.where(is_within, 2 * 0.25 * part * error, 0.0)
        torch.testing.assert_close(layer.weight.grad, gradient, rtol=IN_FLOAT32, atol=1e-8)
        assert gradient.any()
    assert float(loss.detach()) == pytest.approx(0.25 * part * expected, rel=IN_FLOAT32)


def test_it_begins_with_none_and_leaves_out_what_is_not_rounded() -> None:
    executor = Executor(residual_qdq(), batch_norm="batch").train()
    companion = DampenedOscillations(executor, weight=0.25)
    images, labels = batch()
    executor.answer(images)
    companion.begin_update(Fraction(0), 0)
    assert companion.extra_loss(cross_entropy, labels, images) is None
    companion.begin_update(Fraction(1), 0)
    for layer in low_layers(executor)[1:]:
        layer.round_weights(False)
    loss = companion.extra_loss(cross_entropy, labels, images)
    assert loss is not None
    loss.backward()
    assert [layer.weight.grad is not None for layer in low_layers(executor)].count(True) == 1
    frozen = FrozenOscillations(executor, threshold=0.01)
    frozen.end_update()
    assert frozen.get_buffer("code0").any()
    assert not frozen.get_buffer("code1").any()


def test_dampened_weights_lie_nearer_to_their_codes(source: Source) -> None:
    distances = []
    for weight in (0.0, 2.0):
        executor = Executor(residual_qdq(), batch_norm="batch")
        companions = [DampenedOscillations(executor, weight=weight)] if weight else []
        train(executor, source, SETTLED, companions=companions)
        distances.append(
            sum(float((w.quantized_weight() - w.weight).detach().square().sum()) for w in low_layers(executor))
        )
    assert distances[1] < NEARER * distances[0]


@pytest.mark.parametrize("name", ["dampen_oscillations", "freeze_oscillations"])
def test_weights_of_other_kinds_have_none(name: str) -> None:
    message = f"^{name}: no layer has fixed-point weights of 4 bits or fewer, expected some$"
    for model in (two_blocks(), residual_qdq(weight_bits=2, activation_bits=2, quantizer="dorefa")):
        with pytest.raises(ModelError, match=message):
            make_companions(Executor(model), model, model, replace(SETTINGS, **{name: 0.1}), IMAGE_SHAPE)


def test_they_are_made_as_the_settings_say() -> None:
    model = residual_qdq()
    told = {"dampen_oscillations": 0.5, "freeze_oscillations": 0.02, "estimate_statistics": True, "ema": 0.9}
    made = make_companions(Executor(model), model, model, replace(SETTINGS, **told), IMAGE_SHAPE)
    # The average is one of weights that are held.
    assert [type(companion).__name__ for companion in made] == [
        "DampenedOscillations",
        "FrozenOscillations",
        "FreshStatistics",
        "WeightAverage",
    ]
    damped, frozen = made[:2]
    damped.begin_update(Fraction(1), 0)
    frozen.begin_update(Fraction(1), 0)
    assert (damped._weight, frozen._threshold) == (0.5, pytest.approx(0.02))


def test_statistics_are_estimated_anew_and_weights_stay(source: Source) -> None:
    executors = []
    for companions in ([], [FreshStatistics()]):
        executor = Executor(residual_qdq(), batch_norm="batch")
        train(executor, source, SETTINGS, companions=companions)
        executors.append(executor)
    kept, fresh = map(state_of, executors)
    differ = {name for name in kept if not torch.equal(kept[name], fresh[name])}
    statistics = {name for name in kept if name.endswith((".mean", ".variance"))}
    assert statistics <= differ
    # Exponents are chosen for the multiplier behind them as well.
    assert all(name in statistics or name.endswith("exponent") for name in differ)
    assert not math.isnan(sum(float(fresh[name].sum()) for name in statistics))
