"""ResNet-20 on CIFAR-10: every row counted on onnxruntime, on all test images.

Float; 8 bits after calibration only; after FAQ with one and with ten epochs; what pair-safety costs at each; whether
training normalizes by running or by batch statistics; and the best network in all three formats. Everything is kept in
the folder, and a fine-tuning that was cut off goes on from its checkpoint, so the command can be given again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from results import PREPROCESS, Results, Row

import qpipe
from qpipe import progress
from qpipe.settings import Format

BATCH_SIZE = 128  # the float network's own


@dataclass(frozen=True)
class Run:
    """One fine-tuning; epochs 0 is calibration only."""

    cpu: str
    epochs: int
    batch_norm: str = "batch"

    @property
    def file(self) -> str:
        """Its QDQ file."""
        return f"{self.cpu}.faq{self.epochs}.{self.batch_norm}.qdq.onnx" if self.epochs else f"{self.cpu}.qdq.onnx"


RUNS = {
    "8 bits, calibrated only": Run("portable", 0),
    "8 bits, calibrated only, pairs not safe": Run("vnni", 0),
    "8 bits, FAQ, 1 epoch": Run("portable", 1),
    "8 bits, FAQ, 1 epoch, pairs not safe": Run("vnni", 1),
    "8 bits, FAQ, 1 epoch, running statistics": Run("portable", 1, "running"),
    "8 bits, FAQ, 10 epochs": Run("portable", 10),
}
EXPORTED = "8 bits, FAQ, 10 epochs"


def main(
    model: Annotated[Path, typer.Argument(help="the float network")],
    data: Annotated[Path, typer.Argument(help="CIFAR-10 as an .npz")],
    folder: Annotated[Path, typer.Argument(help="where the networks are kept")] = Path("artifacts/resnet20"),
) -> None:
    """Make every network that is not there yet, and count.

    Example: python tools/reproduce_resnet20.py resnet20.onnx cifar10.npz artifacts/resnet20
    """
    folder.mkdir(parents=True, exist_ok=True)
    networks = {"float": model}
    with progress.reporting():
        for name, run in RUNS.items():
            start = _once(folder / Run(run.cpu, 0).file, lambda out, run=run: _calibrate(model, data, out, run.cpu))
            networks[name] = _once(
                folder / run.file, lambda out, run=run, start=start: _finetune(start, data, out, run)
            )
        for format_ in get_args(Format):
            networks[f"{EXPORTED}, {format_}"] = _once(
                folder / f"{format_}.onnx",
                lambda out, format_=format_: qpipe.export(networks[EXPORTED], out, format=format_, data=data),
            )
        report = qpipe.validate(list(networks.values()), data, preprocess=PREPROCESS)
    rows: list[Row] = [
        {"network": name, "right of 10,000": round((row.top1 or 0) * report.images), "integers": _equal(row)}
        for name, row in zip(networks, report.rows, strict=True)
    ]
    results = Results("resnet20_cifar10")
    results.add("ResNet-20 on CIFAR-10", rows)
    results.save()


def _equal(row: Any) -> str:
    return {None: "", True: "equal on all images", False: "DIFFER"}[row.integers_equal]


def _calibrate(model: Path, data: Path, output: Path, cpu: Any) -> None:
    qpipe.calibrate(model, data, output, preprocess=PREPROCESS, cpu=cpu)


def _finetune(model: Path, data: Path, output: Path, run: Run) -> None:
    checkpoint = output.with_suffix(".checkpoint.safetensors")
    arguments: dict[str, Any] = {"epochs": run.epochs, "batch_norm": run.batch_norm, "batch_size": BATCH_SIZE}
    resume = checkpoint.exists()
    qpipe.finetune(model, data, output, **arguments, evaluate=False, checkpoint=checkpoint, resume=resume)


def _once(output: Path, make: Callable[[Path], object]) -> Path:
    """Make the file unless it is there."""
    if not output.exists():
        make(output)
    return output


if __name__ == "__main__":
    typer.run(main)
