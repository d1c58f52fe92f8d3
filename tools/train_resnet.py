"""Train a residual network for CIFAR in float: the papers' ResNet-18, and those that the tables ask for beside it.

The schedule is FAQ's for ResNet-18: 350 epochs at a rate of 0.1, divided by 10 at 150 and 250; other lengths keep these
proportions. A command that is given again goes on from its checkpoint.

Source: FAQ, section 4.9 (CIFAR-10). AG, section 4.6 (CIFAR-100), tells no schedule of the float network.
"""

from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import resnets
import typer
from results import PREPROCESS

import qpipe
from qpipe import progress

EPOCHS = 350
MILESTONES = (150, 250)
Network = StrEnum("Network", {name: name for name in resnets.CIFAR})


def main(
    data: Annotated[Path, typer.Argument(help="CIFAR-10 or CIFAR-100 as an .npz")],
    output: Annotated[Path, typer.Argument(help="where the trained .onnx file goes")],
    network: Annotated[Network, typer.Option(help="which")] = Network["resnet18"],
    classes: Annotated[int, typer.Option(help="number of logits")] = 10,
    epochs: Annotated[int, typer.Option(help="of the run; the paper's are 350")] = EPOCHS,
    batch_size: Annotated[int, typer.Option(help="images in a batch")] = 128,
    seed: Annotated[int, typer.Option(help="of the weights and of every draw")] = 0,
) -> None:
    """Train from scratch, and write the float network.

    Example: python tools/train_resnet.py cifar10.npz artifacts/resnet56.onnx --network resnet56 --epochs 30
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = output.with_suffix(".checkpoint.safetensors")
    with progress.reporting():
        qpipe.finetune(
            resnets.build(resnets.CIFAR[network], image_size=32, classes=classes, seed=seed, name=network),
            data,
            output,
            checkpoint=checkpoint,
            resume=checkpoint.exists(),
            preprocess=PREPROCESS,
            arithmetic="float",
            epochs=epochs,
            schedule="step",
            lr=0.1,
            milestones=tuple(Fraction(at * epochs, EPOCHS) for at in MILESTONES),
            weight_decay=5e-4,
            batch_size=batch_size,
            seed=seed,
        )
    typer.echo(str(output))


if __name__ == "__main__":
    typer.run(main)
