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
from results import Results, Row, rounded, run_tool

from qpipe.errors import ModelError
from qpipe.reporting.low_bit import GROUPED, ROLES, SPLITS, mean_table, questions
from qpipe.reporting.reading import read_run
from qpipe.reporting.record import LowBitRecord

ENDS = {"first": 0, "last": -1}
"""Of the updates that were looked at."""


def record_of(path: Path) -> LowBitRecord:
    """What the file's run looked at; ModelError where it did not look."""
    diagnostics = read_run(path).training.diagnostics
    if diagnostics is None or diagnostics.low_bit is None:
        raise ModelError(f"{path}: no low-bit operand was looked at, expected a network that trained with --diagnose")
    return diagnostics.low_bit


def error_rows(found: LowBitRecord) -> list[Row]:
    """A row for each format: the means over all layers, and how far two layers are apart at most at the end."""
    means = mean_table(found)
    rows: list[Row] = []
    for position, line in enumerate(means):
        row: dict[str, str | float | int | None] = {"format": line["format"]}
        for index, role in enumerate(ROLES):
            of_role = line["means"][index * len(found.updates) :][: len(found.updates)]
            row |= {f"{role}, {when}": _rounded(of_role[update]) for when, update in ENDS.items()}
            errors = [error for error in found.relative_error[role][-1][position] if error is not None]
            row[f"{role}, apart"] = _rounded(max(errors) - min(errors) if errors else None)
        rows.append(row)
    return rows


def order_rows(found: LowBitRecord) -> list[Row]:
    """In how many layers each order holds: of groups with the coarsest format, and of exponents."""
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
        {
            "order": words,
            "layers": len(found.layers),
            **{
                f"{role}, {when}": _falling([found.relative_error[role][update][i] for i in order])
                for role in ROLES
                for when, update in ENDS.items()
            },
        }
        for words, order in orders.items()
    ]


def _falling(rows: Sequence[Sequence[float | None]]) -> int:
    """The layers in which each of these formats errs less than the one before."""
    columns = zip(*rows, strict=True)
    return sum(all(a is not None and b is not None and a > b for a, b in pairwise(column)) for column in columns)


def _rounded(value: float | None) -> float | None:
    return None if value is None else rounded(value)


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
    run_tool(main)
