"""ResNet-20 on CIFAR-10: every row counted on onnxruntime, on all test images.

Float; 8 bits after calibration only; after FAQ with one and with ten epochs; what pair-safety costs at each; whether
training normalizes by running or by batch statistics. Each network is kept in the folder, and a fine-tuning that was
cut off goes on from its checkpoint, so the command can be given again.

    python tools/reproduce_resnet20.py resnet20.onnx cifar10.npz artifacts/resnet20
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from results import Results

import qpipe
from qpipe import progress

PREPROCESS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def main(
    model: Annotated[Path, typer.Argument(help="the float network")],
    data: Annotated[Path, typer.Argument(help="CIFAR-10 as an .npz")],
    folder: Annotated[Path, typer.Argument(help="where the networks are kept")],
    epochs: Annotated[list[int] | None, typer.Option(help="lengths of fine-tuning")] = None,
    running: Annotated[bool, typer.Option(help="also train on running statistics, one epoch")] = True,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    networks: dict[str, Path] = {"float": model}
    with progress.reporting():
        for cpu in ("portable", "vnni"):
            start = _once(folder / f"{cpu}.qdq.onnx", lambda out, cpu=cpu: _calibrate(model, data, out, cpu))
            networks[f"8 bits, calibrated, {cpu}"] = start
            for count in epochs or [1, 10]:
                networks[f"8 bits, FAQ {count} epochs, {cpu}"] = _once(
                    folder / f"{cpu}.faq{count}.qdq.onnx",
                    lambda out, start=start, count=count: _finetune(start, data, out, count, "batch"),
                )
        if running:
            networks["8 bits, FAQ 1 epochs, portable, running statistics"] = _once(
                folder / "portable.faq1.running.qdq.onnx",
                lambda out: _finetune(networks["8 bits, calibrated, portable"], data, out, 1, "running"),
            )
        report = qpipe.validate(list(networks.values()), data, preprocess=PREPROCESS)
    results = Results("resnet20_cifar10")
    rows = [{"network": name, "top-1 of 10,000": round(row.top1 * 10_000)} for name, row in zip(networks, report.rows)]
    results.add("ResNet-20 on CIFAR-10", rows)
    results.save()


def _calibrate(model: Path, data: Path, output: Path, cpu: Any) -> None:
    qpipe.calibrate(model, data, output, preprocess=PREPROCESS, cpu=cpu)


def _finetune(model: Path, data: Path, output: Path, epochs: int, batch_norm: Any) -> None:
    checkpoint = output.with_suffix(".checkpoint.safetensors")
    qpipe.finetune(
        model, data, output, epochs=epochs, batch_norm=batch_norm, evaluate=False,
        checkpoint=checkpoint, resume=checkpoint.exists(),
    )  # fmt: skip


def _once(output: Path, make: Callable[[Path], None]) -> Path:
    """Make the file unless it is there."""
    if not output.exists():
        make(output)
    return output


if __name__ == "__main__":
    typer.run(main)
