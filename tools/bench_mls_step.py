"""Time of one low-bit training step beside the float step of the same network, in turn in one process.

The float step is that of `qpipe finetune --arithmetic float` on the same file. All are whole steps of the same SGD with
momentum on one batch: forward, loss, backward, update. A second table says where the time of a low-bit step goes. On a
machine that others use too, `--clock cpu --threads 1` counts the seconds that this process computed.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from bench_finetune_step import Contestant, noise, time_in_turn, training_step
from results import Results, Row, rounded

from passes.normalize import normalize
from qpipe.arith.mls.generators import Role
from qpipe.arith.mls.quantize import MlsTensor
from qpipe.ir.files.load import load_model
from qpipe.progress import reporting
from qpipe.settings import FinetuneSettings
from qpipe.train.companions.low_bit import LowBit
from qpipe.train.executor import Executor

ROWS: dict[str, dict[str, Any] | None] = {
    "float": None,
    "⟨2, 1⟩ nc": {"element": (2, 1)},
    "⟨2, 1⟩ nc, nearest": {"element": (2, 1), "rounding": "nearest"},
    "⟨2, 1⟩ none": {"element": (2, 1), "group": "none"},
    "⟨2, 4⟩ nc": {"element": (2, 4)},
    "⟨0, 4⟩ nc": {"element": (0, 4)},
}
PROFILED = "⟨2, 1⟩ nc"
Clock = Literal["wall", "cpu"]
CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def contestant(name: str, model: Path, inputs: torch.Tensor, labels: torch.Tensor) -> Contestant:
    """A row's step; each is a step of its own, with draws of its own."""
    executor = executor_of(model)
    asked, updates = ROWS[name], iter(range(1 << 30))
    companion = None
    if asked is not None:
        companion = LowBit([executor], FinetuneSettings(arithmetic="mls", **asked), seed=0)

    def logits() -> torch.Tensor:
        if companion is not None:
            companion.begin_update(Fraction(0), next(updates))
        return executor(inputs)[0]

    return Contestant(name, None, "fp32", training_step(executor, logits, labels))


def executor_of(model: Path) -> Executor:
    """In training on batch statistics, as `qpipe finetune` trains a float network."""
    network = load_model(model)
    normalize(network)
    return Executor(network, batch_norm="batch").train()


def rows_of(contestants: list[Contestant], times: list[list[float]], batch_size: int, clock: Clock) -> list[Row]:
    """The table: each step's time, and its ratio to the float step."""
    medians = [statistics.median(own) for own in times]
    return [
        {
            "step": contestant.name,
            "batch": batch_size,
            "threads": torch.get_num_threads(),
            "clock": clock,
            "median ms": rounded(median * 1e3),
            "min ms": rounded(min(own) * 1e3),
            "x the float step's time": rounded(median / medians[0]),
            "by minima": rounded(min(own) / min(times[0])),
        }
        for contestant, median, own in zip(contestants, medians, times, strict=True)
    ]


def profile(contestant: Contestant, steps: int, clock: Callable[[], float]) -> list[Row]:
    """Where the time of a low-bit step goes, each the median of several."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    quantize, spent = LowBit._quantize, defaultdict[str, float](float)

    def timed(self: LowBit, node: Any, network: Any, at: Any, x: torch.Tensor, role: Role) -> MlsTensor:
        start = clock()
        quantized = quantize(self, node, network, at, x, role)
        spent[f"quantize {role}s"] += clock() - start
        return quantized

    LowBit._quantize = timed  # type: ignore[method-assign]
    try:
        for _ in range(steps):
            spent.clear()
            start = clock()
            contestant.step()
            whole = clock() - start
            for name, seconds in ({**spent, "all else": whole - sum(spent.values()), "whole step": whole}).items():
                found[name].append(seconds)
    finally:
        LowBit._quantize = quantize  # type: ignore[method-assign]
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    return [
        {"part": name, "median ms": rounded(seconds * 1e3), "of the step": rounded(seconds / medians["whole step"])}
        for name, seconds in medians.items()
    ]


def main(
    model: Annotated[Path, typer.Argument(help="a float ResNet-20 for CIFAR-10, with its BatchNormalization")],
    batch_size: Annotated[int, typer.Option(help="images in a batch")] = 128,
    rounds: Annotated[int, typer.Option(help="turns of each contestant")] = 10,
    runs: Annotated[int, typer.Option(help="timed steps of a turn")] = 3,
    threads: Annotated[int | None, typer.Option(help="of torch; all cores by default")] = None,
    clock: Annotated[Clock, typer.Option(help="wall time, or this process' own on the CPU")] = "wall",
    name: Annotated[str, typer.Option(help="of the file in artifacts/results")] = "mls_step",
) -> None:
    """Measure low-bit training steps against the float step.

    Example: python tools/bench_mls_step.py resnet20.onnx
    """
    if threads is not None:
        torch.set_num_threads(threads)
    inputs, labels = noise(batch_size)
    contestants = [contestant(row, model, inputs, labels) for row in ROWS]
    with reporting():
        times = time_in_turn(contestants, rounds, runs, CLOCKS[clock])
    results = Results(name)
    results.add(f"Training step of {model.stem}", rows_of(contestants, times, batch_size, clock))
    profiled = next(each for each in contestants if each.name == PROFILED)
    results.add(f"Where the time of a step at {PROFILED} goes", profile(profiled, rounds, CLOCKS[clock]))
    results.save()


if __name__ == "__main__":
    typer.run(main)
