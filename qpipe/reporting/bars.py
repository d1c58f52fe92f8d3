"""Models side by side: a panel for each figure, a bar for each model, the ratio to the first beside its value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.figure import Figure

from qpipe.reporting.style import FAINT, look, shortened

ROW: Final = 0.52
"""Inches of a bar with its words above it."""
FRAME: Final = 0.9
"""Inches for the titles and the line below all panels."""
BAR: Final = 0.36
"""Of a row, how much is bar."""


@dataclass(frozen=True)
class Panel:
    """One figure of every model, in their order; None where it is unknown.

    unit: behind each value. points: whether a model is told by its difference from the first, as percentages are,
    instead of by the ratio.
    """

    title: str
    unit: str
    values: Sequence[float | None]
    points: bool = False


def draw_bars(figure: Figure, names: Sequence[str], panels: Sequence[Panel], caption: str) -> None:
    """Draw the panels in a row; one of which no value is known is left out. caption: a line below them."""
    shown = [panel for panel in panels if any(value is not None for value in panel.values)]
    figure.set_layout_engine("constrained", w_pad=0.09, h_pad=0.07)
    grid = figure.subplots(1, len(shown), squeeze=False, sharey=True)
    for axes, panel in zip(grid[0], shown, strict=True):
        _draw(axes, panel)
    first = grid[0][0]
    first.set_yticks(range(len(names)), [shortened(name) for name in names])
    first.set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=8, color=FAINT)


def height_of(count: int) -> float:
    """Inches of a picture of so many models."""
    return FRAME + ROW * count


def words(panel: Panel, index: int) -> str:
    """A value as it stands above its bar: ``1.34 ms   0.80×``, ``91.42 %   −0.31``."""
    value, first = panel.values[index], panel.values[0]
    if value is None:
        return "unknown"
    own = f"{_number(value, panel.points)} {panel.unit}"
    if index == 0 or first is None or (first == 0 and not panel.points):
        return own
    if panel.points:
        return f"{own}   {value - first:+.2f}".replace("-", "−")
    return f"{own}   {value / first:.2f}×"


def _number(value: float, points: bool) -> str:
    if points:
        return f"{value:.2f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _draw(axes: Any, panel: Panel) -> None:
    """Bars from zero, because their lengths are compared; words instead of an axis."""
    most = max(value for value in panel.values if value is not None)
    for index, value in enumerate(panel.values):
        axes.barh(index + (1 - BAR) / 2 - 0.08, value or 0, BAR, color=look(index).color)
        axes.annotate(words(panel, index), (0, index - 0.13), (4, 0), textcoords="offset points", va="center")
    axes.set_title(panel.title)
    axes.set_xlim(0, most or 1)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
