"""Cost of 8-bit residual networks beside the same ones without their skips, on onnxruntime, as ratios.

Two networks: ResNet-20 at 32x32, and one with ResNet-18's shapes and random weights at 224x224. All files of a network
are its `qoperator` exports: the plain one with every skip stripped after calibration and not trained, so that what it
computes is wrong and what it costs is not; the exact one with skips that are carried in more channels. They are
measured in turn in one process; the process's memory is measured in one for each file.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import resnet18_like
import typer
from results import Results, Row, rounded, run_tool

import qpipe
from passes.skips.strip_skips import StripSkips
from qpipe.progress import reporting
from qpipe.runtime.cpu import this_cpu
from qpipe.verbs.bench import BenchReport


def export_all(model: Path, image_size: int, folder: Path) -> list[Path]:
    """The 8-bit exports of a float network, calibrated on noise: with its skips, without them, with them carried."""
    noise = np.random.default_rng(0).standard_normal((16, 3, image_size, image_size)).astype(np.float32)
    residual = qpipe.calibrate(model, noise, batches=1, batch_size=len(noise))
    plain = residual.clone()
    StripSkips()(plain)
    exact = qpipe.calibrate(model, noise, batches=1, batch_size=len(noise), plain=True, strip="exact")
    files = [folder / f"{model.stem}.{name}.onnx" for name in ("residual", "plain", "exact")]
    for network, file in zip((residual, plain, exact), files, strict=True):
        qpipe.export(network, file)
    return files


def rows_of(report: BenchReport) -> list[Row]:
    """One row for each batch size and file; the residual network is the first of each batch size."""
    rows: list[Row] = []
    macs = {row.name: qpipe.inspect(row.name).macs or 0 for row in report.rows}
    first = {row.batch_size: row for row in reversed(report.rows)}
    for row in report.rows:
        assert row.activation_kib is not None
        assert row.activation_ratio is not None
        assert row.size is not None
        rows.append(
            {
                "network": Path(row.name).suffixes[-2].removeprefix("."),
                "batch": row.batch_size,
                "x MACs": rounded(macs[row.name] / macs[report.rows[0].name]),
                "median ms": rounded(row.median_ms),
                "min ms": rounded(row.minimum_ms),
                "x as fast": rounded(row.speedup),
                "by minima": rounded(first[row.batch_size].minimum_ms / row.minimum_ms),
                "activations KiB": rounded(row.activation_kib, 4),
                "x activations": rounded(row.activation_ratio),
                "peak at": row.activation_node,
                "process MiB": rounded(row.peak_mib),
                "x process": rounded(row.memory_ratio),
                "file kB": rounded(row.size / 1e3, 4),
            }
        )
    return rows


def main(
    model: Annotated[Path, typer.Option(help="the float ResNet-20")] = Path("artifacts/resnet20.onnx"),
    folder: Annotated[Path, typer.Option(help="where the files that are measured go")] = Path("artifacts/bench"),
    batch_sizes: Annotated[str, typer.Option(help="of the latency, with commas")] = "1,8",
    repeats: Annotated[int, typer.Option(help="timed runs of each file")] = 200,
    threads: Annotated[int | None, typer.Option(help="of an operator; all cores by default")] = None,
    large: Annotated[bool, typer.Option(help="the network with ResNet-18's shapes as well")] = True,
    name: Annotated[str, typer.Option(help="of the file in artifacts/results")] = "plain",
) -> None:
    """Measure residual networks beside plain ones.

    Example: python tools/bench_plain.py --batch-sizes 1 --repeats 500
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [int(size) for size in batch_sizes.split(",")]
    networks = {"ResNet-20, 32x32": (model, 32)}
    if large:
        networks["ResNet-18-like, 224x224"] = (resnet18_like.file_in(folder), 224)
    results = Results(name)
    typer.echo(this_cpu().describe())
    with reporting():
        for title, (path, image_size) in networks.items():
            files = export_all(path, image_size, folder)
            report = qpipe.bench(files, batch_sizes=sizes, repeats=repeats, threads=threads)
            results.add(f"{title}: residual, plain and exact, 8-bit", rows_of(report))
    results.save()


if __name__ == "__main__":
    run_tool(main)
