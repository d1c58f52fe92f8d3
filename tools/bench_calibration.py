"""Time and memory of calibration: qpipe beside onnxruntime's percentile calibrator and the plain float pass.

Each run is a process of its own, the contestants in turn. A process reads and preprocesses the images first; the clock
runs from there to the finished ranges (qpipe: to the written QDQ file), and memory is what the process then added.
"""

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Annotated

import psutil
import typer
from bench_latency import IMAGENET
from onnxruntime_static import Batches, FloatArray
from results import Results, Row, rounded

from qpipe.data import Preprocess, open_data
from qpipe.progress import reporting, track
from qpipe.runtime.cpu import describe
from qpipe.runtime.memory import peak_rss
from qpipe.runtime.session import open_session, run_batches, single_input

CONTESTANTS = ("float pass", "qpipe", "onnxruntime")
LABELS = {"float pass": "plain float pass", "qpipe": "qpipe.calibrate", "onnxruntime": "onnxruntime, percentile"}


def float_pass(model: Path, batches: list[FloatArray], folder: Path) -> None:
    for _ in run_batches(open_session(model), batches):
        pass


def calibrate_ours(model: Path, batches: list[FloatArray], folder: Path) -> None:
    import qpipe

    qpipe.calibrate(model, batches, folder / "net.qdq.onnx", batches=len(batches), batch_size=len(batches[0]))


def calibrate_onnxruntime(model: Path, batches: list[FloatArray], folder: Path) -> None:
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    logging.getLogger().setLevel(logging.ERROR)
    calibrator = create_calibrator(
        model,
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=CalibrationMethod.Percentile,
        extra_options={"percentile": 99.99},
    )
    calibrator.collect_data(Batches(single_input(open_session(model)).name, batches))
    calibrator.compute_data()


def run_contestant(contestant: str, model: Path, data: Path, images: int, batch_size: int) -> None:
    """In the process of its own: print seconds and bytes as JSON, on the last line."""
    source = open_data(data, "train", Preprocess(**IMAGENET))
    batches = [batch.inputs for batch in islice(source.batches(batch_size), -(-images // batch_size))]
    functions = {"float pass": float_pass, "qpipe": calibrate_ours, "onnxruntime": calibrate_onnxruntime}
    if contestant == "qpipe":
        import qpipe

        qpipe.calibrate  # noqa: B018  # Its imports are not calibration; onnxruntime's have been done as well.
    with tempfile.TemporaryDirectory() as folder:
        before, peak_before = psutil.Process().memory_info().rss, peak_rss()
        start = time.perf_counter()
        functions[contestant](model, batches, Path(folder))
        seconds = time.perf_counter() - start
    # Where reading the images needed more than the calibration did, its peak says nothing: at most what was free.
    peak = max(peak_rss(), before) if peak_rss() > peak_before else before
    typer.echo(json.dumps({"seconds": seconds, "bytes": peak - before}))


def measure(contestant: str, model: Path, data: Path, images: int, batch_size: int) -> dict[str, float]:
    """Run a contestant in a process of its own."""
    command = [sys.executable, __file__, "--model", str(model), "--data", str(data), "--batch-size", str(batch_size)]
    command += ["--images", str(images), "--contestant", contestant]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        raise SystemExit(f"{contestant}: {(result.stderr.strip() or 'ended early').splitlines()[-1]}")
    figures: dict[str, float] = json.loads(result.stdout.strip().splitlines()[-1])
    return figures


def compare(model: Path, data: Path, images: int, batch_size: int, rounds: int, names: tuple[str, ...]) -> list[Row]:
    """The contestants in turn: medians of the seconds, the largest of the peaks, ratios to the float pass."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in track(range(rounds), f"calibration on {images} images"):
        for name in names:
            runs[name].append(measure(name, model, data, images, batch_size))
    seconds = {name: statistics.median(run["seconds"] for run in own) for name, own in runs.items()}
    return [
        {
            "calibration": LABELS[name],
            "images": images,
            "seconds": rounded(seconds[name]),
            "x float pass": rounded(seconds[name] / seconds[names[0]]),
            "memory MB": rounded(max(run["bytes"] for run in runs[name]) / 1e6),
        }
        for name in names
    ]


def main(
    model: Annotated[Path, typer.Option(help="the float network")] = Path("../shared/models/resnet20_cifar10_bn.onnx"),
    data: Annotated[Path, typer.Option(help="CIFAR-10 as .npz")] = Path("../shared/data/cifar10.npz"),
    images: Annotated[str, typer.Option(help="numbers of images, with commas")] = "500,2000",
    batch_size: Annotated[int, typer.Option(help="images in a batch")] = 100,
    rounds: Annotated[int, typer.Option(help="runs of each contestant")] = 3,
    ours: Annotated[bool, typer.Option(help="measure qpipe too")] = True,
    name: Annotated[str, typer.Option(help="of the file in artifacts/results")] = "calibration",
    contestant: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure calibration: qpipe, onnxruntime's percentile calibrator and the plain float pass.

    Example: python tools/bench_calibration.py --images 2000 --rounds 5
    """
    if contestant is not None:
        run_contestant(contestant, model, data, int(images), batch_size)
        return
    typer.echo(describe())
    names = tuple(each for each in CONTESTANTS if ours or each != "qpipe")
    results = Results(name)
    with reporting():
        rows = [
            row for count in images.split(",") for row in compare(model, data, int(count), batch_size, rounds, names)
        ]
    results.add("Calibration", rows)
    results.save()


if __name__ == "__main__":
    typer.run(main)
