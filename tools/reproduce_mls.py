"""MLS on CIFAR-10: Tables 2 and 3 of the paper on ResNet-20, trained from scratch and from pretrained weights.

Rows are named by format and grouping; `--rows` picks some, as in `--rows "*scratch, 2 epochs"`. See `experiments.py`.
"""

import typer
from experiments import (
    DataArgument,
    FolderArgument,
    ModelArgument,
    NameOption,
    RowsOption,
    RunOption,
    SeedsOption,
    run_rows,
)
from mls_rows import ROWS


def main(
    model: ModelArgument,
    data: DataArgument,
    folder: FolderArgument,
    rows: RowsOption = None,
    seeds: SeedsOption = 3,
    run: RunOption = True,
    name: NameOption = "mls_cifar10",
) -> None:
    """Run the rows that are not there yet, and print the table of all that are.

    Example: python tools/reproduce_mls.py resnet20.onnx cifar10.npz artifacts/mls --rows "*2 epochs"
    """
    run_rows(ROWS, model, data, folder, patterns=rows, seeds=seeds, run=run, name=name)


if __name__ == "__main__":
    typer.run(main)
