"""Time of one fine-tuning step of qpipe beside the plain float step of the same network, written by hand in torch.

Both are whole steps of SGD with momentum on one batch: forward, loss, backward, update. They run in turn, in one
process.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
import torch
import typer
from results import Results, Row, rounded
from torch.nn import functional as F
from torch_resnet20 import ResNet20

import qpipe
from qpipe.progress import reporting, track
from qpipe.runtime.cpu import describe
from qpipe.train.executor import Executor
from qpipe.train.weighted import BatchNormMode

Step = Callable[[], None]
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-4, 0.9, 1e-4


def sgd(module: torch.nn.Module) -> torch.optim.SGD:
    """The optimizer of both contestants."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trained, LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, foreach=True)


def float_step(inputs: torch.Tensor, labels: torch.Tensor) -> Step:
    """The plain float network in training mode."""
    model = ResNet20().train()
    optimizer = sgd(model)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(model(inputs), labels))
        optimizer.step()

    return step


def qpipe_step(model: Path, inputs: torch.Tensor, labels: torch.Tensor, batch_norm: BatchNormMode) -> Step:
    """qpipe's step on the QDQ file that its calibration gives for `model`."""
    executor = Executor(qpipe.calibrate(model, [inputs.numpy()], batches=1), batch_norm=batch_norm).train()
    optimizer = sgd(executor)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(executor(inputs)[0], labels))
        optimizer.step()

    return step


def time_in_turn(steps: dict[str, Step], rounds: int, runs: int) -> dict[str, list[float]]:
    """Seconds of each timed run; each turn starts with an untimed one."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in track(range(rounds), "steps"):
        for name, step in steps.items():
            step()
            for _ in range(runs):
                start = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - start)
    return times


def main(
    model: Annotated[Path, typer.Option(help="the float ResNet-20")] = Path("artifacts/resnet20.onnx"),
    batch_size: Annotated[int, typer.Option(help="images in a batch")] = 128,
    rounds: Annotated[int, typer.Option(help="turns of each contestant")] = 10,
    runs: Annotated[int, typer.Option(help="timed steps of a turn")] = 3,
    threads: Annotated[int | None, typer.Option(help="of torch; all cores by default")] = None,
    ours: Annotated[bool, typer.Option(help="measure qpipe's step too")] = True,
    name: Annotated[str, typer.Option(help="of the file in artifacts/results")] = "finetune_step",
) -> None:
    """Measure one fine-tuning step against the plain float step.

    Example: python tools/bench_finetune_step.py --batch-size 128
    """
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.standard_normal((batch_size, 3, 32, 32)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 10, batch_size))
    typer.echo(describe())
    steps = {"float, torch": float_step(inputs, labels)}
    if ours:
        for mode in get_args(BatchNormMode):
            steps[f"qpipe, {mode} statistics"] = qpipe_step(model, inputs, labels, mode)
    with reporting():
        times = time_in_turn(steps, rounds, runs)
    first = times["float, torch"]
    rows: list[Row] = [
        {
            "step": label,
            "batch": batch_size,
            "median ms": rounded(statistics.median(own) * 1e3),
            "min ms": rounded(min(own) * 1e3),
            "x the float step's time": rounded(statistics.median(own) / statistics.median(first)),
            "by minima": rounded(min(own) / min(first)),
        }
        for label, own in times.items()
    ]
    results = Results(name)
    results.add("Training step of ResNet-20", rows)
    results.save()


if __name__ == "__main__":
    typer.run(main)
