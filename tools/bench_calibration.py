"""Time and memory of calibration: qpipe beside onnxruntime's percentile calibrator and the plain float pass.

Each run is a process of its own, the contestants in turn. A process reads the preprocessed images first; the clock runs
from there to the finished ranges (qpipe: to the written QDQ file), and memory is what the process added from there.
"""

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from onnxruntime_static import Batches, FloatArray
from results import PREPROCESS, Results, Row, rounded

from qpipe.data import Preprocess, open_data
from qpipe.progress import reporting, track
from qpipe.runtime.cpu import this_cpu
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


def run_contestant(contestant: str, model: Path, images: Path, batch_size: int) -> None:
    """In the process of its own: print seconds and bytes as JSON, on the last line."""
    inputs = np.load(images)
    batches = [inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size)]
    functions = {"float pass": float_pass, "qpipe": calibrate_ours, "onnxruntime": calibrate_onnxruntime}
    if contestant == "qpipe":
        import qpipe

        qpipe.calibrate  # noqa: B018  # Its imports are not calibration; onnxruntime's have been done as well.
    with tempfile.TemporaryDirectory() as folder:
        before = psutil.Process().memory_info().rss
        start = time.perf_counter()
        functions[contestant](model, batches, Path(folder))
        seconds = time.perf_counter() - start
    typer.echo(json.dumps({"seconds": seconds, "bytes": peak_rss() - before}))


def measure(contestant: str, model: Path, images: Path, batch_size: int) -> dict[str, float]:
    """Run a contestant in a process of its own, on the float32 array in the file `images`."""
    command = [sys.executable, __file__, "--model", str(model), "--batch-size", str(batch_size)]
    command += ["--inputs", str(images), "--contestant", contestant]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        raise SystemExit(f"{contestant}: {(result.stderr.strip() or 'ended early').splitlines()[-1]}")
    figures: dict[str, float] = json.loads(result.stdout.strip().splitlines()[-1])
    return figures


def compare(model: Path, inputs: FloatArray, batch_size: int, rounds: int, names: tuple[str, ...]) -> list[Row]:
    """The contestants in turn: medians of the seconds, the largest of the peaks, ratios to the float pass."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npy"
        np.save(images, inputs)
        for _ in track(range(rounds), f"calibration on {len(inputs)} images"):
            for name in names:
                runs[name].append(measure(name, model, images, batch_size))
    seconds = {name: statistics.median(run["seconds"] for run in own) for name, own in runs.items()}
    return [
        {
            "calibration": LABELS[name],
            "images": len(inputs),
            "seconds": rounded(seconds[name]),
            "x float pass": rounded(seconds[name] / seconds[names[0]]),
            "memory MB": rounded(max(run["bytes"] for run in runs[name]) / 1e6),
        }
        for name in names
    ]


def read_images(data: Path, count: int) -> FloatArray:
    """The first training images, preprocessed, float32 [count, 3, 32, 32]."""
    source = open_data(data, "train", Preprocess(**PREPROCESS))
    return np.concatenate([batch.inputs for batch in source.batches(256, limit=count)])


def main(
    model: Annotated[Path, typer.Option(help="the float network")] = Path("artifacts/resnet20.onnx"),
    data: Annotated[Path, typer.Option(help="CIFAR-10 as .npz")] = Path("artifacts/cifar10.npz"),
    images: Annotated[str, typer.Option(help="numbers of images, with commas")] = "500,2000",
    batch_size: Annotated[int, typer.Option(help="images in a batch")] = 100,
    rounds: Annotated[int, typer.Option(help="runs of each contestant")] = 3,
    ours: Annotated[bool, typer.Option(help="measure qpipe too")] = True,
    name: Annotated[str, typer.Option(help="of the file in artifacts/results")] = "calibration",
    contestant: Annotated[str | None, typer.Option(hidden=True)] = None,
    inputs: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure calibration: qpipe, onnxruntime's percentile calibrator and the plain float pass.

    Example: python tools/bench_calibration.py --images 2000 --rounds 5
    """
    if contestant is not None and inputs is not None:
        run_contestant(contestant, model, inputs, batch_size)
        return
    typer.echo(this_cpu().describe())
    names = tuple(each for each in CONTESTANTS if ours or each != "qpipe")
    results = Results(name)
    counts = [int(count) for count in images.split(",")]
    array = read_images(data, max(counts))
    with reporting():
        rows = [row for count in counts for row in compare(model, array[:count], batch_size, rounds, names)]
    results.add("Calibration", rows)
    results.save()


if __name__ == "__main__":
    typer.run(main)
