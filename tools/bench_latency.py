"""Latency, memory and accuracy of qpipe's exports beside onnxruntime's own static quantization, as ratios to float.

Two networks: a real ResNet-20 on CIFAR-10, and for time only one with ResNet-18's shapes and random weights at 224x224;
or those that are given, of one input, on random numbers and for time only. All files of one network are measured in
turn in one process; memory is measured in a process for each file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import resnet18_like
import typer
from onnxruntime_static import FloatArray, quantize
from results import PREPROCESS, Results, Row, rounded, run_tool
from zoo_given import given_inputs

from qpipe.data import Preprocess, open_data
from qpipe.progress import reporting
from qpipe.runtime.accuracy import measure_accuracy
from qpipe.runtime.cpu import this_cpu
from qpipe.runtime.latency import measure_latency
from qpipe.runtime.memory import measure_memory
from qpipe.runtime.session import open_session

FORMATS = ("qoperator", "integer", "qdq")


@dataclass(frozen=True)
class Network:
    """A float network with what calibrates it: `data` for qpipe, `batches` of it for onnxruntime."""

    name: str
    model: Path
    data: Any
    batches: Sequence[FloatArray]
    preprocess: dict[str, Any] | None = None


def resnet20(model: Path, data: Path, count: int, size: int) -> Network:
    """The real network, with `count` batches of `size` training images."""
    source = open_data(data, "train", Preprocess(**PREPROCESS))
    batches = [batch.inputs for batch in islice(source.batches(size), count)]
    return Network("ResNet-20", model, data, batches, PREPROCESS)


def resnet18(folder: Path) -> Network:
    """The network with random weights, and a few images of noise: their values don't change the time."""
    path = resnet18_like.file_in(folder)
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((1, 3, 224, 224)).astype(np.float32) for _ in range(4)]
    return Network("ResNet-18-like, 224x224", path, batches, batches)


def given(model: Path) -> Network:
    """Any network of one input."""
    (arrays,) = given_inputs(model, 16, 1).values()
    return Network(model.stem, model, arrays, [arrays[i : i + 1] for i in range(len(arrays))])


def export_ours(network: Network, folder: Path) -> dict[str, Path]:
    """qpipe's three formats, after calibration only: label -> file."""
    import qpipe

    qdq = folder / f"{network.model.stem}.calibrated.onnx"
    batch_size = len(network.batches[0])
    qpipe.calibrate(
        network.model,
        network.data,
        qdq,
        batches=len(network.batches),
        batch_size=batch_size,
        preprocess=network.preprocess,
    )
    files = {f"qpipe {name}": folder / f"{network.model.stem}.{name}.onnx" for name in FORMATS}
    for name, path in zip(FORMATS, files.values(), strict=True):
        qpipe.export(qdq, path, format=name)
    return files


def latency_rows(files: dict[str, Path], batch_sizes: Sequence[int], repeats: int, threads: int | None) -> list[Row]:
    """One row for each file and batch size."""
    latencies = measure_latency(list(files.values()), batch_sizes, repeats=repeats, threads=threads)
    labels = {str(path): label for label, path in files.items()}
    memory = {(path, size): measure_memory(path, size) for path in files.values() for size in batch_sizes}
    return [
        {
            "file": labels[latency.name],
            "batch": latency.batch_size,
            "median ms": rounded(latency.median * 1e3),
            "min ms": rounded(latency.minimum * 1e3),
            "x float": rounded(latency.ratio),
            "x float, by minima": rounded(latency.ratio_of_minima),
            "memory MB": rounded(memory[Path(latency.name), latency.batch_size].model / 1e6),
        }
        for latency in latencies
    ]


def accuracy_rows(files: dict[str, Path], data: Path, limit: int | None) -> list[Row]:
    """Top-1 on the test images, as it is here and with `session.x64quantprecision`, which avoids saturating pairs."""
    source = open_data(data, "test", Preprocess(**PREPROCESS))
    rows: dict[str, dict[str, str | float | int | None]] = {label: {"file": label} for label in files}
    for column, value in (("top-1", "0"), ("top-1, x64quantprecision", "1")):
        config = {"session.x64quantprecision": value}
        report = measure_accuracy(
            [open_session(path, config=config) for path in files.values()], source.batches(256, limit=limit)
        )
        for label, model in zip(files, report.models, strict=True):
            rows[label][column] = None if model.top1 is None else round(100 * model.top1, 2)
    return list(rows.values())


def main(
    models: Annotated[list[Path] | None, typer.Argument(help="float networks in the place of the two")] = None,
    model: Annotated[Path, typer.Option(help="the float ResNet-20")] = Path("artifacts/resnet20.onnx"),
    data: Annotated[Path, typer.Option(help="CIFAR-10 as .npz")] = Path("artifacts/cifar10.npz"),
    folder: Annotated[Path, typer.Option(help="where the files that are measured go")] = Path("artifacts/bench"),
    batch_sizes: Annotated[str, typer.Option(help="of the latency, with commas")] = "1,8",
    repeats: Annotated[int, typer.Option(help="timed runs of each file")] = 100,
    threads: Annotated[int | None, typer.Option(help="of an operator; all cores by default")] = None,
    limit: Annotated[int | None, typer.Option(help="test images for the accuracy; all by default")] = None,
    ours: Annotated[bool, typer.Option(help="measure qpipe's exports too")] = True,
    name: Annotated[str, typer.Option(help="of the file in artifacts/results")] = "latency",
) -> None:
    """Measure qpipe's exports beside onnxruntime's own static quantization.

    Example: python tools/bench_latency.py --batch-sizes 1 --repeats 200
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [int(size) for size in batch_sizes.split(",")]
    results = Results(name)
    typer.echo(this_cpu().describe())
    networks = [given(path) for path in models or []] or [resnet18(folder)]
    if not models and model.exists() and data.exists():
        networks.insert(0, resnet20(model, data, count=5, size=100))
    with reporting():
        for network in networks:
            files = {"float": network.model, **(export_ours(network, folder) if ours else {})}
            files.update(quantize(network.model, folder, network.batches))
            if network.preprocess is not None:
                results.add(f"{network.name}: accuracy", accuracy_rows(files, data, limit))
            results.add(f"{network.name}: latency", latency_rows(files, sizes, repeats, threads))
    results.save()


if __name__ == "__main__":
    run_tool(main)
