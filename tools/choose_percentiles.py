"""Which percentile an activation's range ends at, below 4 bits: each tried, and judged by training images alone.

Networks are calibrated with 8-bit weights on the training images but the last 5,000, and counted on these, before any
training. What these choose is `DEFAULT_PERCENTILE` in `qpipe/calibration/observe.py`.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from results import PixelsOption, Results, Row, preprocess_of, rounded, run_tool

import qpipe
from qpipe.calibration.observe import DEFAULT_PERCENTILE

HELD = 5000
PERCENTILES = (97.0, 98.0, 99.0, 99.5, 99.7, 99.9)
WIDTHS = (2, 3)


def main(
    models: Annotated[list[Path], typer.Argument(help="float networks for CIFAR-10")],
    data: Annotated[Path, typer.Option(help="cifar10.npz")],
    pixels: PixelsOption = None,
    name: Annotated[str, typer.Option(help="of the file in artifacts/results")] = "percentiles",
) -> None:
    """Count each percentile at each width.

    Example: python tools/choose_percentiles.py resnet20.onnx resnet8.onnx --data cifar10.npz --pixels resnet8
    """
    with np.load(data) as arrays:
        images, labels = arrays["train_images"], arrays["train_labels"]
    parts = {
        "train_images": images[:-HELD], "train_labels": labels[:-HELD],
        "test_images": images[-HELD:], "test_labels": labels[-HELD:],
    }  # fmt: skip
    results = Results.load(name)
    for model in models:
        given = preprocess_of(model, pixels)
        rows: list[Row] = []
        for percentile in PERCENTILES:
            top1 = {}
            for bits in WIDTHS:
                network = qpipe.calibrate(model, parts, preprocess=given, activation_bits=bits, percentile=percentile)
                (counted,) = qpipe.validate([network], parts, preprocess=given).rows
                star = "*" if percentile == DEFAULT_PERCENTILE[bits] else ""
                top1[f"{bits} bits"] = f"{rounded(100 * (counted.top1 or 0.0))}{star}"
            rows.append({"percentile": percentile, **top1})
        results.add(f"{model.stem}: top-1 of {HELD:,} held training images; * the default", rows)
        results.save()


if __name__ == "__main__":
    run_tool(main)
