"""What low-bit formats lose of W, A and E, of networks that `qpipe finetune --diagnose` trained, as tables.

The MLS paper's Figures 3 and 5 in numbers: the average relative error of each format as the mean over all layers, in
how many layers the orders that the paper sees hold, and how many groups lie below half of the largest magnitude.

Source: *Exploring the Potential of Low-bit Training of Convolutional Neural Networks*, section 5.1 and appendix C.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer
from results import Results, Row, rounded

from qpipe.errors import ModelError, QpipeError
from qpipe.reporting.low_bit import GROUPED, ROLES, SPLITS, mean_table, questions
from qpipe.reporting.reading import read_run
from qpipe.reporting.record import LowBitRecord


def record_of(path: Path) -> LowBitRecord:
    """What the file's run looked at; ModelError where it did not look."""
    diagnostics = read_run(path).training.diagnostics
    if diagnostics is None or diagnostics.low_bit is None:
        raise ModelError(f"{path}: no low-bit operand was looked at, expected a network that trained with --diagnose")
    return diagnostics.low_bit


def error_rows(found: LowBitRecord) -> list[Row]:
    """A row for each format: the means over all layers at the first and at the last update that was looked at."""
    last = len(found.updates) - 1
    rows: list[Row] = []
    for line in mean_table(found):
        row: dict[str, str | float | int | None] = {"format": line["format"]}
        for index, role in enumerate(ROLES):
            for words, update in (("first", 0), ("last", last)):
                mean = line["means"][index * len(found.updates) + update]
                row[f"{role}, {words}"] = None if mean is None else rounded(mean)
        rows.append(row)
    return rows


def order_rows(found: LowBitRecord) -> list[Row]:
    """In how many layers each order holds at the last update: of groups with the coarsest format, and of exponents."""
    groups, alone, grouped = questions(found.formats).values()
    orders = {
        "n below none": [groups["none"], groups["n"]],
        "c below none": [groups["none"], groups["c"]],
        "nc below n": [groups["n"], groups["nc"]],
        "nc below c": [groups["c"], groups["nc"]],
        "each Ex below the last, no groups": list(alone.values()),
        "each Ex below the last, nc": list(grouped.values()),
    }
    return [
        {"order": words, "layers": len(found.layers), **{role: _falling(found, role, order) for role in ROLES}}
        for words, order in orders.items()
    ]


def _falling(found: LowBitRecord, role: str, order: Sequence[int]) -> int:
    """The layers in which each of these formats errs less than the one before."""
    columns = zip(*(found.relative_error[role][-1][i] for i in order), strict=True)
    return sum(all(a is not None and b is not None and a > b for a, b in pairwise(column)) for column in columns)


def share_rows(found: LowBitRecord) -> list[Row]:
    """Groups below half of the largest, at the last update: the mean share, its ends, and where it is over half."""
    rows: list[Row] = []
    for role in GROUPED:
        for split, words in SPLITS.items():
            shares = [share for share in found.below_half[role][split][-1] if share is not None]
            rows.append(
                {
                    "groups": f"{role}, {words}",
                    "mean, %": rounded(100 * sum(shares) / len(shares)),
                    "least, %": rounded(100 * min(shares)),
                    "most, %": rounded(100 * max(shares)),
                    "layers over half": sum(share > 0.5 for share in shares),
                    "layers": len(shares),
                }
            )
    return rows


def main(
    networks: Annotated[list[Path], typer.Argument(help="what finetune --diagnose wrote")],
    name: Annotated[str, typer.Option(help="of the file in artifacts/results")] = "mls_operands",
) -> None:
    """Print and keep what low-bit formats lose.

    Example: python tools/mls_operands.py scratch.onnx pretrained.onnx
    """
    results = Results(name)
    for path in networks:
        found = record_of(path)
        where = f"{path.stem}, updates {found.updates[0]} and {found.updates[-1]}"
        results.add(f"{where}: average relative error, mean over the layers", error_rows(found))
        results.add(f"{where}: layers in which an order holds", order_rows(found))
        results.add(f"{where}: groups below half of the largest magnitude", share_rows(found))
    results.save()


if __name__ == "__main__":
    try:
        typer.run(main)
    except QpipeError as error:
        raise SystemExit(str(error)) from error
