"""The loop: one seed, one result; schedules, virtual batches, and who looks on."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from qpipe.data import Preprocess, Source, open_data
from qpipe.errors import DataError, ModelError
from qpipe.settings import FinetuneSettings
from qpipe.settings.training import BatchNormMode
from qpipe.train import loop
from qpipe.train.executor import Executor
from qpipe.train.keeper import DivergedError
from qpipe.train.loop import train
from qpipe.train.observer import Observer
from qpipe.train.run import Judged
from support.quantize import finalized
from support.training import BATCHES, SETTINGS, assert_same, replace, state_of
from support.zoo.trainable import network, qdq

SUMMED_OTHERWISE = 1e-5
"""Weights of size 1 after a few updates whose float32 sums were in another order."""
HALF_AN_EPOCH = (Fraction(1, 2), Fraction(3, 2))


def trained(source: Source, settings: FinetuneSettings, mode: BatchNormMode = "batch") -> dict[str, torch.Tensor]:
    executor = Executor(qdq(), batch_norm=mode)
    train(executor, source, settings)
    return state_of(executor)


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_one_seed_one_result(source: Source, mode: BatchNormMode) -> None:
    runs = []
    for seed in (3, 3, 4):
        executor = Executor(qdq(), batch_norm=mode)
        history = train(executor, source, SETTINGS, seed=seed)
        assert not executor.training
        runs.append((state_of(executor), history))
    assert_same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert runs[0][1] != runs[2][1]


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_it_learns(source: Source, mode: BatchNormMode) -> None:
    history = train(Executor(qdq(), batch_norm=mode), source, replace(SETTINGS, epochs=8, crop_padding=0, flip=False))
    assert [epoch.number for epoch in history] == list(range(1, 9))
    assert history[-1].loss < 0.7 * history[0].loss
    assert history[-1].accuracy > history[0].accuracy


def test_a_float_graph(source: Source) -> None:
    net, y = network()
    history = train(Executor(net.model(y)), source, replace(SETTINGS, epochs=4))
    assert history[-1].loss < history[0].loss


@pytest.mark.parametrize("n", [2, 4])
def test_a_virtual_batch_is_the_mean_of_its_real_ones(source: Source, n: int) -> None:
    """On running statistics n batches of 16, one update, are one batch of 16 n."""
    # Rounded weights would make a large difference of the smallest one.
    net, y = network()
    runs = []
    for settings in (
        replace(SETTINGS, batch_size=64 // n, grow_at=(Fraction(0),) * (n // 2)),
        replace(SETTINGS, batch_size=64),
    ):
        executor = Executor(net.model(y), batch_norm="running")
        history = train(executor, source, settings)
        runs.append((state_of(executor), history))
    (grown, first), (whole, second) = runs
    for name, expected in whole.items():
        torch.testing.assert_close(grown[name], expected, rtol=0, atol=SUMMED_OTHERWISE, msg=name)
    assert [epoch.batch_size for epoch in first] == [epoch.batch_size for epoch in second] == [64, 64]
    assert first[-1].loss == pytest.approx(second[-1].loss, abs=SUMMED_OTHERWISE)


def test_statistics_are_those_of_each_real_batch(source: Source) -> None:
    still = replace(SETTINGS, lr=1e-30, weight_decay=0.0)
    assert_same(trained(source, still), trained(source, replace(still, grow_at=(Fraction(0),))))


def test_the_last_virtual_batch_of_an_epoch_has_what_is_left(source: Source) -> None:
    class Count(Observer):
        updates = 0

        def after_update(self, executor: Executor, step: int) -> None:
            self.updates += 1
            assert step == self.updates

    count = Count()
    train(Executor(qdq()), source, replace(SETTINGS, batch_size=24, grow_at=(Fraction(1),)), observers=[count])
    assert count.updates == 3 + 2  # three batches: 1, 1, 1, and then 2, 1


def test_the_rate_falls_within_an_epoch(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = []

    def noted(settings: FinetuneSettings, at: Fraction) -> float:
        moments.append(at)
        return settings.lr

    monkeypatch.setattr(loop, "learning_rate", noted)
    train(Executor(qdq()), source, replace(SETTINGS, grow_at=HALF_AN_EPOCH, epochs=1))
    quarters = [at * BATCHES for at in moments]
    # Each update begins where the last one ended: two of one batch, one of two; the epoch's record has the rate at its
    # start.
    assert quarters == [0, 1, 2, 0]


def test_a_step_within_an_epoch_is_in_the_weights(source: Source) -> None:
    constant = trained(source, SETTINGS)
    stepped = replace(SETTINGS, schedule="step", milestones=(Fraction(2),))
    assert_same(trained(source, stepped), constant)  # after the last update
    inside = trained(source, replace(stepped, milestones=(Fraction(7, 4),)))
    assert any(not torch.equal(inside[name], constant[name]) for name in inside)


def test_observers_and_evaluation_change_nothing(source: Source) -> None:
    calls: list[str] = []

    class Spy(Observer):
        def on_start(self, executor: Executor) -> None:
            calls.append("start")

        def before_update(self, executor: Executor, step: int) -> None:
            self.old = next(executor.weighted()).weight.detach().clone()
            assert next(executor.weighted()).weight.grad is not None

        def after_update(self, executor: Executor, step: int) -> None:
            assert not torch.equal(self.old, next(executor.weighted()).weight)
            calls.append(f"{step}")

        def on_end(self, executor: Executor) -> None:
            assert not executor.training
            calls.append("end")

    def evaluate(executor: Executor) -> Judged:
        assert not executor.training
        calls.append("evaluate")
        return Judged(0.25)

    settings = replace(SETTINGS, epochs=3)
    executor = Executor(qdq(), batch_norm="batch")
    history = train(executor, source, settings, observers=[Spy()], evaluate=evaluate, evaluate_every=2)
    assert_same(state_of(executor), trained(source, settings))
    assert calls == ["start", *"12345678", "evaluate", "9", "10", "11", "12", "evaluate", "end"]
    assert [epoch.test_accuracy for epoch in history] == [None, 0.25, 0.25]


def test_the_loss_is_the_callers(source: Source) -> None:
    def zero(logits: torch.Tensor, labels: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        assert (logits.shape, labels.shape, inputs.shape) == ((16, 4), (16,), (16, 3, 8, 8))
        return logits.sum() * 0

    executor = Executor(qdq(), batch_norm="running")
    before = state_of(executor)
    (epoch,) = train(executor, source, replace(SETTINGS, epochs=1, weight_decay=0.0), loss=zero)
    assert epoch.loss == 0
    assert torch.equal(next(executor.weighted()).weight, before["layers.0.weight"])


def test_a_loss_that_is_no_number(source: Source, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"^epoch 1, update \d: the loss is (nan|inf); a lower --lr may help$"):
        train(Executor(qdq()), source, replace(SETTINGS, lr=1e30))
    checkpoint = tmp_path / "run.safetensors"
    train(Executor(qdq()), source, replace(SETTINGS, epochs=1), checkpoint=checkpoint)
    good = checkpoint.read_bytes()
    executor = Executor(qdq())
    executor.tail.register_forward_hook(lambda module, args, answer: answer * float("nan"))
    last = r"the last good checkpoint is .*run\.safetensors \(after update 4, 1 epochs done\)"
    with pytest.raises(DivergedError, match=rf"epoch 2, update 5: .*{last}$"):
        train(executor, source, SETTINGS, checkpoint=checkpoint, resume=True)
    assert checkpoint.read_bytes() == good


def test_a_weight_that_is_no_number_is_not_kept(source: Source, tmp_path: Path) -> None:
    class Spoil(Observer):
        def after_update(self, executor: Executor, step: int) -> None:
            if step == 3:
                next(executor.weighted()).weight.data[0] = float("inf")

    checkpoint = tmp_path / "run"
    with pytest.raises(
        DivergedError, match=r"update 3: Conv '\w+': a weight is no finite number; .* \(after update 2, "
    ):
        train(Executor(qdq()), source, SETTINGS, checkpoint=checkpoint, checkpoint_every=1, observers=[Spoil()])


def test_a_final_model_is_refused() -> None:
    with pytest.raises(ModelError, match="final already"):
        Executor(finalized(qdq()))


def test_labels_of_a_stream_beyond_the_classes() -> None:
    stream = [(np.zeros((16, 3, 8, 8), np.float32), np.full(16, 3))]
    with pytest.raises(DataError, match="label 3, but output '' has 3 classes"):
        train(Executor(qdq(classes=3)), open_data(iter(stream), "train"), replace(SETTINGS, crop_padding=0, flip=False))


def test_no_labels() -> None:
    images = np.zeros((32, 8, 8, 3), np.uint8)
    with pytest.raises(DataError, match="no labels"):
        train(Executor(qdq()), open_data(images, "train", Preprocess()), SETTINGS)
