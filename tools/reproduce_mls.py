"""MLS on CIFAR-10: Tables 2 and 3 of the paper on ResNet-20, trained from scratch and from pretrained weights.

Rows are named by format and grouping; `--rows` picks some, as in `--rows "*scratch, 2 epochs"`. See `experiments.py`.
"""

import typer
from experiments import reproduction
from mls_rows import ROWS

if __name__ == "__main__":
    example = 'reproduce_mls.py resnet20.onnx cifar10.npz artifacts/mls --rows "*2 epochs"'
    typer.run(reproduction(ROWS, "mls_cifar10", seeds=3, example=example))
