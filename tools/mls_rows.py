"""The rows of `reproduce_mls.py`: Tables 2 and 3 of the MLS paper, each with one schedule of the same length.

Names say element, grouping and the group scale's mantissa, such as "⟨2,1⟩ nc Mg 1, scratch, 2 epochs".
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments import ExperimentRow

from passes.normalize import normalize
from passes.randomize_weights import RandomizeWeights
from qpipe.ir.files.load import load_model
from qpipe.ir.files.save import save_model

GRID, TABLE2 = 2, 10
"""Epochs of every row of Table 3's grid, and of Table 2's and the grid's corners."""
TWIN = (1, 1, "none", 0)
"""Run although another row has its grid."""


def forget(model: Path, output: Path) -> None:
    """The same network with random weights."""
    network = load_model(model)
    normalize(network)
    RandomizeWeights()(network)
    save_model(network, output)


def _row(name: str, start: str, epochs: int, *, leads: bool = False, **arguments: Any) -> ExperimentRow:
    finetune = {"recipe": "mls-cifar", "epochs": epochs, **arguments}
    prepare = forget if start == "scratch" else None
    return ExperimentRow(f"{name}, {start}, {epochs} epochs", finetune=finetune, prepare=prepare, leads=leads)


def float_row(start: str, epochs: int) -> ExperimentRow:
    """What the others are compared with."""
    return _row("float", start, epochs, arithmetic="float")


def low_bit_row(
    exponent: int, mantissa: int, group: str, group_mantissa: int, start: str, epochs: int, **others: Any
) -> ExperimentRow:
    """One format and one grouping; with Mx = 1, Mg 0 and 1 are compared with several seeds."""
    scale = "" if group == "none" else f" Mg {group_mantissa}"
    more = "".join(f", {key.replace('_', ' ')} {value}" for key, value in others.items())
    format_ = {"element": (exponent, mantissa), "group": group, "group_format": (8, group_mantissa)}
    if group == "none":
        del format_["group_format"]
    leads = (exponent, mantissa, group, start, epochs) == (0, 1, "nc", "scratch", GRID) and not others
    name = f"⟨{exponent},{mantissa}⟩ {group}{scale}{more}"
    return _row(name, start, epochs, leads=leads, arithmetic="mls", **format_, **others)


def _table2(start: str) -> list[ExperimentRow]:
    elements = ((2, 1), (1, 2), (0, 4), (0, 2))
    return [float_row(start, TABLE2), *(low_bit_row(*element, "nc", 1, start, TABLE2) for element in elements)]


def _table3() -> list[ExperimentRow]:
    """Groupings without exponents, then exponents without and with groups.

    ⟨1, M⟩ has the grid of ⟨0, M + 1⟩, and trains to the same bits: of such cells one is run to show it.
    """
    groupings = [("none", 0), ("c", 0), ("n", 0), ("nc", 0), ("nc", 1)]
    grid = [(0, m, group, mg) for group, mg in groupings for m in (4, 3, 2, 1)]
    grid += [(e, m, group, mg) for group, mg in (("none", 0), ("nc", 1)) for e in (1, 2) for m in (4, 3, 2, 1)]
    rows = {cell: low_bit_row(*cell, "scratch", GRID) for cell in grid}
    for (e, m, *grouping), row in rows.items():
        twin = rows.get((0, m + 1, *grouping))
        if e == 1 and twin is not None and (e, m, *grouping) != TWIN:
            rows[e, m, *grouping] = replace(row, same_as=twin.name)
    return list(rows.values())


CORNERS = (
    low_bit_row(0, 4, "none", 0, "scratch", TABLE2),
    low_bit_row(2, 1, "none", 0, "scratch", TABLE2),
)
# A fraction that rounds up to 2: which of the two trains better.
CLIPPED = tuple(
    low_bit_row(*element, "nc", 1, "scratch", GRID, overflow="clip") for element in ((2, 1), (1, 2), (2, 4))
)

ROWS = (
    float_row("scratch", GRID),
    *_table3(),
    *CLIPPED,
    *_table2("pretrained"),
    *_table2("scratch"),
    *CORNERS,
)
