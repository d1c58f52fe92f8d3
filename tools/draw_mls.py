"""Figure 6 of the MLS paper: accuracy over the elements' formats ⟨Ex, Mx⟩, from the rows that `reproduce_mls.py` left.

The paper draws formats without groups; beside them are those with a scale of ⟨8, 1⟩ for each of nc groups, and the
float network that was trained as long. Networks are judged with the low-bit forward that they were trained with, or as
the float files that they are.

Source: *Exploring the Potential of Low-bit Training of Convolutional Neural Networks*, appendix D.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from experiments import DIVERGED
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from results import RESULTS, Results, Row, run_tool

from qpipe.errors import QpipeError
from qpipe.reporting.style import FAINT, drawing, look, save_picture

PANELS = {"none": "No groups", "nc Mg 1": "Groups nc, scales ⟨8, 1⟩"}
COLUMNS = {"low-bit": "with the low-bit forward", "top-1": "of the float file"}
"""Of a row: what is drawn, in words."""
LOW_BIT = re.compile(r"⟨(\d+), ?(\d+)⟩ (.+?), (\w+), (\d+) epochs?")
FLOAT = re.compile(r"float, (\w+), (\d+) epochs?")
Cells = Mapping[tuple[int, int], float | None]
"""Top-1 in percent by Ex and Mx; None where training diverged."""


@dataclass(frozen=True)
class Figure6:
    """Rows that began and lasted alike: cells by their groups, and the float network."""

    cells: Mapping[str, Cells]
    float_top1: float | None

    @property
    def values(self) -> list[float | None]:
        """Of all cells."""
        return [value for cells in self.cells.values() for value in cells.values()]


def read(rows: Iterable[Row], start: str, epochs: int, column: str) -> Figure6:
    """Of the rows whose names say that they began so and lasted so long; others are left out."""
    alike = (start, str(epochs))
    cells: dict[str, dict[tuple[int, int], float | None]] = {}
    float_top1 = None
    for row in rows:
        name = str(row["network"])
        low_bit, plain = LOW_BIT.fullmatch(name), FLOAT.fullmatch(name)
        if plain and plain.groups() == alike:
            float_top1 = _number(row["top-1"])
        elif low_bit and low_bit.groups()[3:] == alike and low_bit[3] in PANELS:
            found = _number(row.get(column))
            if found is not None or row["top-1"] == DIVERGED:
                cells.setdefault(low_bit[3], {})[int(low_bit[1]), int(low_bit[2])] = found
    if not cells:
        raise QpipeError(f"no row of a format, {start}, {epochs} epochs: expected some that reproduce_mls.py counted")
    return Figure6({groups: cells[groups] for groups in PANELS if groups in cells}, float_top1)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def draw(figure: Any, found: Figure6, runs: str, column: str) -> None:
    """A panel for each grouping, a line for each Ex; what diverged stands on the floor. runs: how they were trained."""
    panels = figure.subplots(1, len(found.cells), sharey=True, squeeze=False)[0]
    floor = min([100.0, *(value for value in found.values if value is not None)]) - 4
    exponents = sorted({exponent for cells in found.cells.values() for exponent, _ in cells})
    for axes, (groups, cells) in zip(panels, found.cells.items(), strict=True):
        for exponent in exponents:
            _draw_line(axes, exponent, {m: value for (e, m), value in sorted(cells.items()) if e == exponent}, floor)
        if found.float_top1 is not None:
            axes.axhline(found.float_top1, color=FAINT, linestyle="--", linewidth=1.2)
        axes.set_title(f"{PANELS[groups]}; {runs}")
        axes.set_xlabel("Mx, bits of the mantissa")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=floor - 2)
    panels[0].set_ylabel(f"top-1 in percent, {COLUMNS[column]}")
    handles = [Line2D([], [], color=look(e).color, marker=look(e).marker, label=f"Ex = {e}") for e in exponents]
    if found.float_top1 is not None:
        handles.append(Line2D([], [], color=FAINT, linestyle="--", linewidth=1.2, label="float"))
    if None in found.values:
        handles.append(Line2D([], [], color=FAINT, marker="x", linestyle="", label="diverged"))
    panels[-1].legend(handles=handles, loc="center left", bbox_to_anchor=(1.02, 0.5))


def _draw_line(axes: Any, exponent: int, line: Mapping[int, float | None], floor: float) -> None:
    style = look(exponent)
    for mantissa, value in line.items():
        if value is None:
            axes.plot([mantissa + 0.05 * (exponent - 1)], [floor], color=style.color, marker="x", markersize=6)
    points = [(mantissa, value) for mantissa, value in line.items() if value is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color=style.color, marker=style.marker)


def main(
    picture: Annotated[Path, typer.Argument(help="what to draw: a .png or an .svg")],
    start: Annotated[str, typer.Option(help="what the rows began with: scratch or pretrained")] = "scratch",
    epochs: Annotated[int, typer.Option(help="how long they trained")] = 2,
    column: Annotated[str, typer.Option(help="; ".join(f"{c}: {said}" for c, said in COLUMNS.items()))] = "low-bit",
    name: Annotated[str, typer.Option(help="of the file in artifacts/results")] = "mls_cifar10",
) -> None:
    """Draw Figure 6 from the rows that are counted.

    Example: python tools/draw_mls.py figure6.png
    """
    if column not in COLUMNS:
        raise QpipeError(f"--column: {column!r}, expected {' or '.join(COLUMNS)}")
    rows = [row for table in Results.load(name, RESULTS).tables.values() for row in table]
    found = read(rows, start, epochs, column)
    with drawing(3.4) as figure:
        draw(figure, found, {"scratch": "from scratch"}.get(start, start) + f", {epochs} epochs", column)
        save_picture(figure, picture, "figure6", "Accuracy over the elements' formats")


if __name__ == "__main__":
    run_tool(main)
