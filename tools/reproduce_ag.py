"""AG and SSP on CIFAR-10: the analogue of the paper's Tables 1 to 6 on ResNet-20, and the plain networks that ship.

All rows of one table have the same epochs, `--epochs`; there is a table for each length. `--rows` picks some, as in
`--rows "2/2 plain*"`. See `experiments.py`.
"""

from typing import Annotated

import typer
from ag_rows import rows_of
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


def main(
    model: ModelArgument,
    data: DataArgument,
    folder: FolderArgument,
    rows: RowsOption = None,
    epochs: Annotated[int, typer.Option(help="of every row")] = 10,
    batch_size: Annotated[int, typer.Option(help="of every row; the paper's is 256")] = 256,
    seeds: SeedsOption = 1,
    run: RunOption = True,
    name: NameOption = "ag_cifar10",
) -> None:
    """Run the rows that are not there yet, and print the table of all that are.

    Example: python tools/reproduce_ag.py resnet20.onnx cifar10.npz artifacts/ag --epochs 10 --rows "2/2 plain*"
    """
    table = rows_of(epochs, batch_size)
    what = f"{epochs} epochs in batches of {batch_size}, "
    run_rows(table, model, data, folder, patterns=rows, seeds=seeds, run=run, name=name, what=what)


if __name__ == "__main__":
    typer.run(main)
