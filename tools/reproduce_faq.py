"""FAQ on CIFAR-10: the paper's Table 2 and section 4.9 on ResNet-20, and what else moves a 4-bit network.

Rows are named by what they change; `--rows` picks some, as in `--rows "4/4, FAQ*"`. See `experiments.py`.
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
from faq_rows import ROWS


def main(
    model: ModelArgument,
    data: DataArgument,
    folder: FolderArgument,
    rows: RowsOption = None,
    seeds: SeedsOption = 1,
    run: RunOption = True,
    name: NameOption = "faq_cifar10",
) -> None:
    """Run the rows that are not there yet, and print the table of all that are.

    Example: python tools/reproduce_faq.py resnet20.onnx cifar10.npz artifacts/faq --rows "8/8*"
    """
    run_rows(ROWS, model, data, folder, patterns=rows, seeds=seeds, run=run, name=name)


if __name__ == "__main__":
    typer.run(main)
