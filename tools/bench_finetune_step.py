"""Time of one fine-tuning step of qpipe beside other steps of the same network, in turn in one process.

The others: the plain float network, written by hand in torch, and Brevitas' quantization-aware training, where Brevitas
can be imported (qpipe doesn't need it; see `brevitas_resnet20.py` for what it is given to do). All are whole steps
of the same SGD with momentum on one batch: forward, loss, backward, update. On a GPU a step ends when all that it
launched has run.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
import torch
import typer
from results import Results, Row, rounded
from torch.nn import functional as F
from torch_resnet20 import ResNet20

import qpipe
from qpipe.progress import reporting, track
from qpipe.settings.training import BatchNormMode, Precision
from qpipe.train.executor import Executor

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-4, 0.9, 1e-4
BITS = 8, 4


@dataclass(frozen=True)
class Contestant:
    """One way to make a step; `bits` of weights and activations, None where they are float."""

    name: str
    bits: int | None
    precision: Precision
    step: Callable[[], None]


def noise(batch_size: int, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs [N, 3, 32, 32] and labels [N], the same ones each time; torch draws the same after it as well."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.standard_normal((batch_size, 3, 32, 32)).astype(np.float32))
    return inputs.to(device), torch.from_numpy(rng.integers(0, 10, batch_size)).to(device)


def training_step(
    module: torch.nn.Module, logits: Callable[[], torch.Tensor], labels: torch.Tensor
) -> Callable[[], None]:
    """A whole step on the batch whose logits the module gives: the same for all contestants."""
    module.train()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, foreach=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(logits().float(), labels))
        optimizer.step()

    return step


def plain_float(
    inputs: torch.Tensor, labels: torch.Tensor, precision: Precision, *, channels_last: bool = False
) -> Contestant:
    """The plain float network; its bf16 is torch's autocast. In torch's own layout, or with its channels last."""
    network = ResNet20().to(inputs.device)
    if channels_last:
        network, inputs = (x.to(memory_format=torch.channels_last) for x in (network, inputs))

    def logits() -> torch.Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bf16"):
            result: torch.Tensor = network(inputs)
            return result

    name = "float, torch, channels last" if channels_last else "float, torch"
    return Contestant(name, None, precision, training_step(network, logits, labels))


def of_qpipe(
    model: Path, inputs: torch.Tensor, labels: torch.Tensor, bits: int, mode: BatchNormMode, precision: Precision
) -> Contestant:
    """qpipe's step on the QDQ file that its calibration gives for `model`."""
    quantized = qpipe.calibrate(model, [inputs.cpu().numpy()], batches=1, weight_bits=bits, activation_bits=bits)
    executor = Executor(quantized, batch_norm=mode, precision=precision).to(inputs.device)
    step = training_step(executor, lambda: executor(inputs)[0], labels)
    return Contestant(f"qpipe, {mode} statistics", bits, precision, step)


def of_brevitas(
    inputs: torch.Tensor, labels: torch.Tensor, bits: int, scales: Literal["learned", "constant"]
) -> Contestant:
    """Brevitas' step, with the channels last, where it is faster too; `scales` are the activations'."""
    from brevitas_resnet20 import QuantizedResNet20

    network = QuantizedResNet20(ResNet20(), bits, scales).to(inputs.device)
    network, images = (x.to(memory_format=torch.channels_last) for x in (network, inputs))
    step = training_step(network, lambda: network(images), labels)
    return Contestant(f"Brevitas {version('brevitas')}, {scales} scales", bits, "fp32", step)


def time_in_turn(
    contestants: list[Contestant], rounds: int, runs: int, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Seconds, by a clock, of each contestant's timed steps; each turn starts with an untimed one."""
    times: list[list[float]] = [[] for _ in contestants]
    for _ in track(range(rounds), "steps"):
        for contestant, own in zip(contestants, times, strict=True):
            contestant.step()
            for _ in range(runs):
                start = clock()
                contestant.step()
                own.append(clock() - start)
    return times


def gpu_clock() -> float:
    """Seconds, when all that was launched has run."""
    torch.cuda.synchronize()
    return time.perf_counter()


def rows_of(contestants: list[Contestant], times: list[list[float]], batch_size: int) -> list[Row]:
    """The table: each step's time, and its ratio to the plain float step in fp32 and in its own precision."""
    medians = [statistics.median(own) for own in times]
    timed = list(zip(contestants, medians, strict=True))
    # The first of a precision counts: the step in torch's own layout.
    of_float = {contestant.precision: median for contestant, median in reversed(timed) if contestant.bits is None}
    return [
        {
            "step": contestant.name,
            "bits": contestant.bits,
            "precision": contestant.precision,
            "batch": batch_size,
            "median ms": rounded(median * 1e3),
            "min ms": rounded(min(own) * 1e3),
            "x the float step's time": rounded(median / of_float["fp32"]),
            "x that in its precision": rounded(median / of_float[contestant.precision]),
            "by minima": rounded(min(own) / min(times[0])),
        }
        for contestant, median, own in zip(contestants, medians, times, strict=True)
    ]


def main(
    model: Annotated[Path, typer.Option(help="the float ResNet-20")] = Path("artifacts/resnet20.onnx"),
    batch_size: Annotated[int, typer.Option(help="images in a batch")] = 128,
    rounds: Annotated[int, typer.Option(help="turns of each contestant")] = 10,
    runs: Annotated[int, typer.Option(help="timed steps of a turn")] = 3,
    threads: Annotated[int | None, typer.Option(help="of torch; all cores by default")] = None,
    cpu_time: Annotated[bool, typer.Option("--cpu-time", help="count CPU seconds, on a busy machine")] = False,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="where all of them run")] = "cpu",
    name: Annotated[str, typer.Option(help="of the file in artifacts/results")] = "finetune_step",
) -> None:
    """Measure one fine-tuning step against the plain float step and, where it is installed, Brevitas' step.

    Example: python tools/bench_finetune_step.py --batch-size 128
    """
    if threads is not None:
        torch.set_num_threads(threads)
    inputs, labels = noise(batch_size, device)
    precisions, modes = get_args(Precision), get_args(BatchNormMode)
    contestants = [plain_float(inputs, labels, precision) for precision in precisions]
    contestants.append(plain_float(inputs, labels, "fp32", channels_last=True))
    for precision, bits, mode in product(precisions, BITS, modes):
        contestants.append(of_qpipe(model, inputs, labels, bits, mode, precision))
    if importlib.util.find_spec("brevitas") is None:
        typer.echo("Brevitas is not installed: its steps are left out")
    else:
        contestants += [of_brevitas(inputs, labels, bits, "constant") for bits in BITS]
        contestants.append(of_brevitas(inputs, labels, 8, "learned"))
    with reporting():
        clock = gpu_clock if device == "cuda" else time.process_time if cpu_time else time.perf_counter
        times = time_in_turn(contestants, rounds, runs, clock)
    results = Results(name)
    where = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    results.add(f"Training step of ResNet-20{where}", rows_of(contestants, times, batch_size))
    results.save()


if __name__ == "__main__":
    typer.run(main)
