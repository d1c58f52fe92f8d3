"""What keeps a run: a full disk costs a checkpoint and not the run, and no file holds what is no number."""

import os
from pathlib import Path

import pytest
import torch

from qpipe.data import Source
from qpipe.train.executor import Executor
from qpipe.train.keeper import DivergedError
from qpipe.train.loop import train
from qpipe.train.observer import Observer
from qpipe.train.run import Judged
from support.training import SETTINGS, assert_same, replace, state_of
from support.zoo.trainable import qdq


class FillDisk(Observer):
    """From an update on nothing can be written; before another one something can again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, full: int, free: int | None = None) -> None:
        self.monkeypatch, self.full, self.free, self.fsync = monkeypatch, full, free, os.fsync

    def before_update(self, executor: Executor, step: int) -> None:
        def fails(file: int) -> None:
            raise OSError(28, "No space left on device")

        if step in (self.full, self.free):
            self.monkeypatch.setattr(os, "fsync", fails if step == self.full else self.fsync)


def test_a_full_disk_costs_checkpoints_and_no_run(source: Source, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, rest = Executor(qdq()), Executor(qdq())
    expected = train(whole, source, SETTINGS)
    disk = FillDisk(monkeypatch, full=4)
    with pytest.warns(
        UserWarning, match=r"no checkpoint after update \d: .*No space left on device; the last one is"
    ) as told:
        found = train(rest, source, SETTINGS, checkpoint=path, checkpoint_every=3, observers=[disk])
    assert [str(warning.message).split(":")[0] for warning in told] == [
        f"no checkpoint after update {update}" for update in (4, 6, 8)
    ]
    assert all(str(warning.message).endswith("the last one is after update 3, 0 epochs done") for warning in told)
    assert found == expected
    assert_same(state_of(rest), state_of(whole))
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    monkeypatch.setattr(os, "fsync", disk.fsync)
    # The one that was kept is a good one.
    again = Executor(qdq())
    assert (
        train(again, source, SETTINGS, checkpoint=path, resume=True, observers=[FillDisk(monkeypatch, 0)]) == expected
    )
    assert_same(state_of(again), state_of(whole))


def test_a_disk_that_has_room_again_gets_the_next_one(
    source: Source, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.warns(UserWarning, match="no checkpoint after update 4: .*; there is none yet"):
        train(Executor(qdq()), source, SETTINGS, checkpoint=path, observers=[FillDisk(monkeypatch, full=1, free=5)])
    assert path.exists()


class Break(Observer):
    """Makes one number of the network none, after an update."""

    def __init__(self, step: int, what: str, value: float = float("inf")) -> None:
        self.step, self.what, self.value = step, what, value

    def after_update(self, executor: Executor, step: int) -> None:
        if step == self.step:
            tensor = getattr(next(iter(executor.weighted())), self.what)
            with torch.no_grad():
                tensor.view(-1)[-1] = self.value


@pytest.mark.parametrize("what", ["weight", "gamma", "beta", "mean", "variance"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_no_number_after_the_last_update_is_not_counted_or_kept(
    source: Source, what: str, value: float
) -> None:
    """Without a checkpoint, which would be refused."""
    counted: list[int] = []

    def evaluate(executor: Executor) -> Judged:
        counted.append(1)
        return Judged(0.5)

    last = Break(8, what, value)
    with pytest.raises(
        DivergedError, match=r"^epoch 2, update 8: Conv '\w+': a weight is no finite number; a lower --lr may help$"
    ):
        train(Executor(qdq(), batch_norm="batch"), source, SETTINGS, observers=[last], evaluate=evaluate)
    assert len(counted) == 1


@pytest.mark.parametrize("what", ["weight", "gamma", "beta", "mean"])
def test_what_no_file_may_hold_is_not_written_either(source: Source, what: str) -> None:
    """As after an update at a rate of 1e30: finite, and refused by whatever reads it."""
    with pytest.raises(
        DivergedError, match=r"^epoch 2, update 8: Conv '\w+': a weight is as large as 1.84e\+19; a lowe"
    ):
        train(Executor(qdq(), batch_norm="batch"), source, SETTINGS, observers=[Break(8, what, 2.0**64)])
    train(Executor(qdq(), batch_norm="batch"), source, SETTINGS, observers=[Break(8, "variance", 2.0**65)])


def test_the_last_good_checkpoint_is_named_and_kept(source: Source, path: Path) -> None:
    settings, last = replace(SETTINGS, epochs=1), Break(3, "weight")
    with pytest.raises(
        DivergedError, match=rf"update 3: .*; the last good checkpoint is {path} \(after update 2, 0 ep"
    ):
        train(Executor(qdq()), source, settings, checkpoint=path, checkpoint_every=1, observers=[last])
    history = train(Executor(qdq()), source, settings, checkpoint=path, resume=True, observers=[Break(0, "weight")])
    assert len(history) == 1
