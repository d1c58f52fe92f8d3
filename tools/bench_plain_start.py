"""What is left of a network when its skips go, before any training: cut, by least squares, or carried."""

import time
from pathlib import Path
from typing import Annotated, Any

import onnx_ir as ir
import typer
from results import PixelsOption, Results, Row, preprocess_of, rounded, run_tool

import qpipe
from passes.normalize import normalize
from passes.skips.strip_skips import StripSkips
from qpipe.ir.files.load import load_model

WIDTHS = (8, 4)
WAYS: dict[str, dict[str, Any]] = {
    "with skips": {},
    "by least squares": {"plain": True},
    "carried": {"plain": True, "strip": "exact"},
}


def cut(model: Path) -> ir.Model:
    """The float network without its skips, nothing else changed."""
    network = load_model(model)
    normalize(network)
    StripSkips()(network)
    return network


def main(
    models: Annotated[list[Path], typer.Argument(help="float residual networks for CIFAR-10")],
    data: Annotated[Path, typer.Option(help="cifar10.npz")],
    pixels: PixelsOption = None,
    name: Annotated[str, typer.Option(help="of the file in artifacts/results")] = "plain_start",
) -> None:
    """Count each on the test images.

    Example: python tools/bench_plain_start.py resnet20.onnx resnet8.onnx --data cifar10.npz --pixels resnet8
    """
    results = Results.load(name)
    for model in models:
        given = preprocess_of(model, pixels)
        networks: dict[str, tuple[ir.Model | Path, float | None]] = {
            "float": (model, None),
            "float, skips cut": (cut(model), None),
        }
        for bits in WIDTHS:
            widths: dict[str, Any] = {"weight_bits": bits, "activation_bits": bits}
            for words, way in WAYS.items():
                start = time.process_time()
                calibrated = qpipe.calibrate(model, data, preprocess=given, **way, **widths)
                networks[f"{bits}/{bits}, {words}"] = calibrated, time.process_time() - start
        rows: list[Row] = []
        for words, (network, seconds) in networks.items():
            (row,) = qpipe.validate([network], data, preprocess=given).rows
            top1 = None if row.top1 is None else rounded(100 * row.top1)
            rows.append({"network": words, "top-1": top1, "CPU seconds": seconds and rounded(seconds)})
        results.add(model.stem, rows)
        results.save()


if __name__ == "__main__":
    run_tool(main)
