"""Time of one step of AG, SSP and the fading of skips over the plain step, 2-bit DoReFa-Net, in turn in one process.

Every contestant makes a whole step of Adam on one batch: forward, loss, backward, update, with what its companions add.
"""

from collections.abc import Mapping
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import torch
import typer
from ag_rows import DOREFA
from bench_finetune_step import Contestant, noise, time_in_turn
from results import Results, rounded

import qpipe
from passes.skips.strip_skips import StripSkips
from qpipe.progress import reporting
from qpipe.settings.recipes import RECIPES
from qpipe.tasks.task import CLASSES
from qpipe.train.companions.make import make_companions
from qpipe.train.executor import Executor
from qpipe.train.losses import label_loss
from qpipe.train.teacher import distillation, float_teacher

LEVERS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "plain + AG": {"method": "ag"},
    "plain + AG, layerwise": {"method": "ag", "layerwise": True},
    "plain + SSP": {"ssp": True},
    "plain + AG + SSP": {"method": "ag", "ssp": True},
    "plain + fade, in the middle of it": {"fade": 1.0},
    "plain + teacher": {"teacher": "float"},
}


def step_of(residual: ir.Model, plain: ir.Model, inputs: torch.Tensor, labels: torch.Tensor, name: str) -> Contestant:
    """A contestant with the companions that its levers make."""
    settings = RECIPES["ag"].model_copy(update=LEVERS[name])
    executor = Executor(plain, batch_norm="batch")
    companions = make_companions(executor, plain, residual, settings, inputs.shape[1:])
    loss = label_loss(CLASSES)
    if settings.teacher:
        loss = distillation(
            float_teacher(residual), CLASSES, weight=settings.teacher_weight, temperature=settings.temperature
        )
    modules = [executor, *companions]
    optimizer = torch.optim.Adam(dict.fromkeys(p for module in modules for p in module.parameters()), settings.lr)
    executor.train()
    updates = count()

    def step() -> None:
        # Another tensor each time, as in training: a teacher answers once for each.
        batch = inputs.clone()
        optimizer.zero_grad(set_to_none=True)
        update = next(updates)
        for companion in companions:
            companion.begin_update(Fraction(1, 4), update)
        total = loss(executor(batch)[0], labels, batch)
        for companion in companions:
            extra = companion.extra_loss(loss, labels, batch)
            total = total if extra is None else total + extra
        torch.autograd.backward(total)
        for companion in companions:
            companion.end_backward()
        optimizer.step()

    return Contestant(name, 2, "fp32", step)


def main(
    model: Annotated[Path, typer.Option(help="the float ResNet-20")] = Path("artifacts/resnet20.onnx"),
    batch_size: Annotated[int, typer.Option(help="images in a batch")] = 128,
    rounds: Annotated[int, typer.Option(help="turns of each contestant")] = 10,
    runs: Annotated[int, typer.Option(help="timed steps of a turn")] = 2,
    threads: Annotated[int | None, typer.Option(help="of torch; all cores by default")] = None,
    name: Annotated[str, typer.Option(help="of the file in artifacts/results")] = "ag_step",
) -> None:
    """Measure a step of each method against the plain step.

    Example: python tools/bench_ag_step.py --rounds 10
    """
    if threads is not None:
        torch.set_num_threads(threads)
    inputs, labels = noise(batch_size)
    residual = qpipe.calibrate(model, [inputs.numpy()], batches=1, **DOREFA)
    plain = residual.clone()
    StripSkips()(plain)
    contestants = [step_of(residual, plain.clone(), inputs, labels, lever) for lever in LEVERS]
    with reporting():
        times = time_in_turn(contestants, rounds, runs)
    medians = [float(np.median(own)) for own in times]
    rows = [
        {
            "step": contestant.name,
            "batch": batch_size,
            "median ms": rounded(1e3 * median),
            "x the plain step's time": rounded(median / medians[0]),
            "by minima": rounded(min(own) / min(times[0])),
        }
        for contestant, median, own in zip(contestants, medians, times, strict=True)
    ]
    results = Results.load(name)
    threads = torch.get_num_threads()
    what = f"{threads} thread" if threads == 1 else f"{threads} threads"
    results.add(f"Training step of ResNet-20 without its skips, 2-bit DoReFa-Net, {what}", rows)
    results.save()


if __name__ == "__main__":
    typer.run(main)
