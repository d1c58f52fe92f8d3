"""The network of the best epoch is what is left, also of a run that was stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qpipe.data import Source
from qpipe.train.companions.best_epoch import BestEpoch
from qpipe.train.executor import Executor
from qpipe.train.loop import train
from support.training import SETTINGS, InterruptedRunError, StopAfter, assert_same, bright_images, replace, state_of
from support.zoo.trainable import qdq


@pytest.fixture(scope="module")
def source() -> Source:
    return bright_images()


class Judge:
    """Says what it was told to, and remembers the networks that it saw."""

    def __init__(self, *metrics: float | None) -> None:
        self._metrics, self.seen = list(metrics), list[dict[str, torch.Tensor]]()
        self.network: Executor | None = None

    def __call__(self) -> float | None:
        assert self.network is not None
        self.seen.append(state_of(self.network))
        return self._metrics.pop(0)


def run(source: Source, judge: Judge, *, rises: bool = True, **options: Any) -> tuple[Executor, BestEpoch]:
    executor = judge.network = Executor(qdq(), batch_norm="batch")
    best = BestEpoch(executor, judge, rises=rises)
    train(executor, source, replace(SETTINGS, epochs=3), companions=[best], **options)
    return executor, best


def without_exponents(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """They follow the weights when training ends."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("exponent")}


@pytest.mark.parametrize(
    ("metrics", "rises", "number"),
    [((0.5, 0.7, 0.6), True, 2), ((0.5, 0.7, 0.6), False, 1), ((0.7, 0.7, 0.6), True, 2), ((0.0, 0.0, 0.0), True, 3)],
)
def test_the_best_is_left(source: Source, metrics: tuple[float, ...], rises: bool, number: int) -> None:
    judge = Judge(*metrics)
    executor, best = run(source, judge, rises=rises)
    assert (int(best.number), float(best.metric)) == (number, metrics[number - 1])
    assert_same(without_exponents(state_of(executor)), without_exponents(judge.seen[number - 1]))


@pytest.mark.parametrize("stop", [3, 6, 11])
def test_resuming_changes_nothing(source: Source, tmp_path: Path, stop: int) -> None:
    metrics, path = (0.5, 0.7, 0.6), tmp_path / "run.safetensors"
    make: Callable[[int], Judge] = lambda done: Judge(*metrics[done:])  # noqa: E731
    whole, _ = run(source, make(0), observers=[StopAfter()])
    options: dict[str, Any] = {"checkpoint": path, "checkpoint_every": 1}
    with pytest.raises(InterruptedRunError):
        run(source, make(0), observers=[StopAfter(stop)], **options)
    rest, best = run(source, make((stop - 1) // 4), observers=[StopAfter()], resume=True, **options)
    assert int(best.number) == 2
    assert_same(state_of(rest), state_of(whole))
    # All epochs are done: nobody is asked any more.
    again, _ = run(source, Judge(), observers=[StopAfter()], resume=True, **options)
    assert_same(state_of(again), state_of(whole))
