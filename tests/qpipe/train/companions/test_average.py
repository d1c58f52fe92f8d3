"""Averaged weights: the formula, what is written, and that a run that was stopped ends with the same bits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qpipe.data import Source
from qpipe.train.companions.average import WeightAverage
from qpipe.train.executor import Executor
from qpipe.train.loop import train
from qpipe.train.observer import Observer
from qpipe.train.write_back import write_back
from support.run import assert_exact
from support.training import SETTINGS, InterruptedRunError, StopAfter, assert_same, bright_images, state_of
from support.zoo.trainable import network, qdq

AVERAGED_IN_FLOAT32 = 1e-6
"""Of the largest weight: some roundings of 2**-24 each."""
DECAY = 0.4
"""Below (1 + t) / (10 + t) from the sixth update on."""


@pytest.fixture(scope="module")
def source() -> Source:
    return bright_images()


class Weights(Observer):
    """All that trains, after every update."""

    def __init__(self) -> None:
        self.seen: list[list[np.ndarray]] = []

    def after_update(self, executor: Executor, step: int) -> None:
        self.seen.append([p.detach().double().numpy().copy() for p in executor.parameters() if p.requires_grad])


def run(source: Source, **options: Any) -> Executor:
    executor = Executor(qdq(), batch_norm="batch")
    train(executor, source, SETTINGS, companions=[WeightAverage(executor, decay=DECAY)], **options)
    return executor


def test_what_is_left_is_the_average(source: Source) -> None:
    start = [p.detach().double().numpy() for p in Executor(qdq()).parameters() if p.requires_grad]
    observer = Weights()
    found = [p.detach().numpy() for p in run(source, observers=[observer]).parameters() if p.requires_grad]
    assert len(observer.seen) == 8
    expected = start
    for number, weights in enumerate(observer.seen, start=1):
        d = min(DECAY, (1 + number) / (10 + number))
        expected = [d * a + (1 - d) * p for a, p in zip(expected, weights, strict=True)]
    for ours, wanted, last in zip(found, expected, observer.seen[-1], strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=AVERAGED_IN_FLOAT32 * np.abs(wanted).max())
        assert not np.array_equal(ours, last.astype(np.float32))


@pytest.mark.parametrize("stop", [3, 7])
def test_resuming_changes_nothing(source: Source, tmp_path: Path, stop: int) -> None:
    path, whole = tmp_path / "run.safetensors", run(source)
    options: dict[str, Any] = {"checkpoint": path, "checkpoint_every": 1}
    with pytest.raises(InterruptedRunError):
        run(source, observers=[StopAfter(stop)], **options)
    assert_same(state_of(run(source, observers=[StopAfter()], resume=True, **options)), state_of(whole))
    # All updates are done: averages and statistics come of the checkpoint alone.
    assert_same(state_of(run(source, observers=[StopAfter()], resume=True, **options)), state_of(whole))


def test_what_is_written_is_the_averaged_network(source: Source) -> None:
    model = qdq()
    executor = Executor(model, batch_norm="batch")
    train(executor, source, SETTINGS, companions=[WeightAverage(executor, decay=DECAY)])
    write_back(executor)
    assert_exact(model, network()[0].inputs(seed=2), executor)


def test_it_is_no_part_of_the_networks_state() -> None:
    executor = Executor(qdq())
    names = state_of(executor).keys()
    average = WeightAverage(executor, decay=DECAY)
    assert state_of(executor).keys() == names
    trained = sum(p.requires_grad for p in executor.parameters())
    assert len(state_of(average)) == trained
    assert not any(isinstance(p, torch.nn.Parameter) for p in average.parameters())
