"""Checkpoints: whatever a run is, it goes on where it was, or says in one line why it can't."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from qpipe.data import Source
from qpipe.errors import DataError, QpipeError
from qpipe.settings import FinetuneSettings
from qpipe.settings.training import BatchNormMode
from qpipe.train.checkpoint import Parts, load_checkpoint, save_checkpoint
from qpipe.train.companion import Companion
from qpipe.train.companions.make import make_companions
from qpipe.train.executor import Executor
from qpipe.train.loop import train
from qpipe.train.run import Epoch, RunState
from support.training import (
    RUN,
    SETTINGS,
    InterruptedRunError,
    StopAfter,
    assert_same,
    bright_images,
    images,
    replace,
    state,
    state_of,
)
from support.zoo.residual import stripped
from support.zoo.trainable import IMAGE_SHAPE, qdq, residual_qdq

GROWING = replace(
    SETTINGS, epochs=3, schedule="step", milestones=(Fraction(1, 2), Fraction(7, 3)), grow_at=(Fraction(3, 2),)
)


@pytest.mark.parametrize("mode", ["running", "batch"])
@pytest.mark.parametrize("done", [1, 2, 3])
def test_resuming_after_an_epoch_changes_nothing(source: Source, path: Path, mode: BatchNormMode, done: int) -> None:
    settings = replace(SETTINGS, epochs=3)
    whole = Executor(qdq(), batch_norm=mode)
    expected = train(whole, source, settings)
    # At a constant rate a run may be told to go on for longer.
    train(Executor(qdq(), batch_norm=mode), source, replace(settings, epochs=done), checkpoint=path)
    rest = Executor(qdq(), batch_norm=mode)
    assert train(rest, source, settings, checkpoint=path, resume=True) == expected
    assert_same(state_of(rest), state_of(whole))


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("stops", [(2,), (5, 6, 8), (3, 9)])
def test_resuming_within_an_epoch_changes_nothing(
    source: Source, path: Path, stops: tuple[int, ...], every: int
) -> None:
    whole = Executor(qdq(), batch_norm="batch")
    observer = StopAfter()
    expected = train(whole, source, GROWING, observers=[observer])
    assert observer.seen.tolist() == list(range(1, 10))  # 4 updates, 3 (two of one batch, one of two), 2
    for stop in (*stops, None):
        rest, watching = Executor(qdq(), batch_norm="batch"), StopAfter(stop)
        options: dict[str, Any] = {"checkpoint": path, "checkpoint_every": every, "observers": [watching]}
        try:
            history = train(rest, source, GROWING, resume=path.exists(), **options)
        except InterruptedRunError:
            continue
    assert history == expected
    assert watching.seen.tolist() == observer.seen.tolist()
    assert_same(state_of(rest), state_of(whole))


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "plain": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, 0.1, betas=(0.8, 0.9)),
    "groups": lambda p: torch.optim.AdamW([{"params": p[:1], "lr": 0.5}, {"params": p[1:]}], amsgrad=True),
    "tensor rate": lambda p: torch.optim.Adam(p, torch.tensor(0.25)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer(path: Path, name: str) -> None:
    """Two steps are one, and one more from the file."""

    def start() -> Parts:
        executor = Executor(qdq())
        weights = [weight for weight in executor.parameters() if weight.requires_grad]
        return Parts(executor, OPTIMIZERS[name](weights), [], [], {})

    def step(parts: Parts) -> None:
        for index, weight in enumerate(parts.executor.parameters()):
            weight.grad = torch.full_like(weight, 0.1 * (index + 1)) if weight.requires_grad else None
        parts.optimizer.step()

    whole, half, rest = start(), start(), start()
    step(whole)
    step(whole)
    step(half)
    state = RunState([Epoch(1, 0.5, 0.25, 0.1, 16, None)], updates=7, batches=3, loss=0.1, correct=2, images=9)
    save_checkpoint(path, half, state)
    assert load_checkpoint(path, rest) == state
    step(rest)
    assert_same(state_of(rest.executor), state_of(whole.executor))


Run = Callable[..., object]


@pytest.fixture
def resumed(source: Source, path: Path) -> Run:
    """Resume a run of one epoch with something else than it had."""
    train(Executor(qdq()), source, replace(SETTINGS, epochs=1), checkpoint=path)
    before = path.read_bytes()

    def run(
        settings: FinetuneSettings = SETTINGS, executor: Executor | None = None, data: Source = source, **options: Any
    ) -> None:
        try:
            train(executor or Executor(qdq()), data, settings, checkpoint=path, resume=True, **options)
        finally:
            assert path.read_bytes() == before

    return run


def test_nothing_to_resume(source: Source, path: Path) -> None:
    with pytest.raises(QpipeError, match=r"run.safetensors: nothing to resume, no such file$"):
        train(Executor(qdq()), source, SETTINGS, checkpoint=path, resume=True)
    with pytest.raises(QpipeError, match=r"--resume: no checkpoint was named, expected --checkpoint FILE"):
        train(Executor(qdq()), source, SETTINGS, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.1}, r"lr was 0\.02, now 0\.1"),
        ({"crop_padding": 0}, "crop_padding was 1, now 0"),
        ({"flip": False}, "flip was True, now False"),
        ({"batch_norm": "running"}, "batch_norm was batch, now running"),
        ({"grow_at": (Fraction(1), Fraction(3, 2))}, "grow_at was none, now 1, 3/2"),
        ({"teacher": "float"}, "teacher was none, now float"),
    ],
)
def test_another_run(resumed: Run, change: dict[str, Any], message: str) -> None:
    with pytest.raises(QpipeError, match=rf"run.safetensors: a checkpoint of another run: {message}$"):
        resumed(replace(SETTINGS, **change))


def test_another_seed(resumed: Run) -> None:
    with pytest.raises(QpipeError, match=r"run.safetensors: a checkpoint of another run: seed was 0, now 4$"):
        resumed(seed=4)


def test_a_schedule_depends_on_the_number_of_epochs(source: Source, path: Path) -> None:
    linear = replace(SETTINGS, schedule="linear", epochs=1)
    train(Executor(qdq()), source, linear, checkpoint=path)
    with pytest.raises(QpipeError, match="another run: epochs was 1, now 2"):
        train(Executor(qdq()), source, replace(linear, epochs=2), checkpoint=path, resume=True)


@pytest.mark.parametrize("changing", [{"ssp": True}, {"fade": 0.5}])
def test_what_changes_over_the_run_depends_on_the_number_of_epochs(
    source: Source, path: Path, changing: dict[str, Any]
) -> None:
    settings = replace(SETTINGS, epochs=1, **changing)
    train(Executor(qdq()), source, settings, checkpoint=path)
    with pytest.raises(QpipeError, match="another run: epochs was 1, now 2"):
        train(Executor(qdq()), source, replace(settings, epochs=2), checkpoint=path, resume=True)


EVERYTHING = replace(RUN, method="ag", ssp=True, fade=0.75, layerwise=True)


def companions_of(settings: FinetuneSettings) -> tuple[Executor, list[Companion]]:
    """Of a network whose first block lost its skip; the other one has it still."""
    residual = residual_qdq()
    plain = stripped(residual.clone(), "add1")
    executor = Executor(plain, batch_norm="batch")
    return executor, make_companions(executor, plain, residual, settings, IMAGE_SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_companions_are_in_it(path: Path, optimizer: Any) -> None:
    """AG with its branches and its optimizer's state, a fade and SSP in the middle of their lines."""
    settings = replace(EVERYTHING, optimizer=optimizer)
    whole, expected = companions_of(settings)
    assert [type(companion).__name__ for companion in expected] == [
        "AuxiliaryGradient",
        "FadingSkips",
        "StochasticPrecision",
    ]
    history = train(whole, images(), settings, companions=expected)
    for stop in (2, 4, None):
        rest, companions = companions_of(settings)
        options: dict[str, Any] = {"checkpoint": path, "checkpoint_every": 1, "observers": [StopAfter(stop)]}
        try:
            found = train(rest, images(), settings, resume=path.exists(), companions=companions, **options)
        except InterruptedRunError:
            continue
    assert found == history
    assert_same(state_of(rest), state_of(whole))
    assert_same(state(companions), state(expected))


def test_more_epochs_than_are_wanted(source: Source, path: Path) -> None:
    train(Executor(qdq()), source, SETTINGS, checkpoint=path)
    with pytest.raises(QpipeError, match=r"run.safetensors: 2 epochs are done, expected at most 1"):
        train(Executor(qdq()), source, replace(SETTINGS, epochs=1), checkpoint=path, resume=True)


def test_other_observers(resumed: Run) -> None:
    with pytest.raises(QpipeError, match="another run: observers was none, now StopAfter"):
        resumed(observers=[StopAfter()])


def test_other_data(resumed: Run) -> None:
    with pytest.raises(DataError, match=r"a checkpoint of other data: a label differs$"):
        resumed(data=bright_images(seed=1))
