"""Energy as bars: what is saved, by several price lists, and where the energy of several runs goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.figure import Figure

from qpipe.reporting.style import FAINT, look, shortened

BAR: Final = 0.19
"""Inches of a bar; the gap between two labels has as much."""
FRAME: Final = 0.9
"""Inches for the titles and the line below all panels."""
MOST_PARTS: Final = 6
OTHERS: Final = "all else"


@dataclass(frozen=True)
class Panel:
    """A bar of each series below each label. unit: behind each value. absent: what stands for a None."""

    title: str
    unit: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float | None]]
    absent: str


def shares(runs: Mapping[str, Sequence[tuple[str, float]]]) -> tuple[list[str], dict[str, list[float | None]]]:
    """The parts of each run, in percent of the whole: labels, the largest of any run first, and values by run.

    runs: for each the names and costs of its parts; those of one name are one. Beyond `MOST_PARTS` they are one too.
    """
    percent: dict[str, dict[str, float]] = {}
    for run, parts in runs.items():
        whole, found = sum(cost for _, cost in parts), dict.fromkeys((name for name, _ in parts), 0.0)
        for name, cost in parts:
            found[name] += 100 * cost / whole
        percent[run] = found
    names = dict.fromkeys(name for found in percent.values() for name in found)
    ordered = sorted(names, key=lambda name: -max(found.get(name, 0.0) for found in percent.values()))
    shown, rest = ordered[:MOST_PARTS], ordered[MOST_PARTS:]
    values: dict[str, list[float | None]] = {run: [found.get(name) for name in shown] for run, found in percent.items()}
    for run, found in percent.items():
        values[run] += [sum(found.get(name, 0.0) for name in rest)] if rest else []
    return [*shown, *([OTHERS] if rest else [])], values


def height_of(panels: Sequence[Panel]) -> float:
    """Inches of a picture of these panels."""
    return FRAME + max(len(panel.labels) * (len(panel.series) + 1) * BAR for panel in panels)


def draw_panels(figure: Figure, panels: Sequence[Panel], caption: str) -> None:
    """Draw the panels in a row. caption: a line below them."""
    figure.set_layout_engine("constrained", w_pad=0.09, h_pad=0.07)
    begin = 0
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, panel, begin)
        # What a colour means in one panel it does not mean in another.
        begin += len(panel.series)
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=8, color=FAINT)


def _draw(axes: Any, panel: Panel, begin: int) -> None:
    """Bars from zero, because their lengths are compared; words instead of an axis."""
    count = len(panel.series)
    most = max((value for values in panel.series.values() for value in values if value is not None), default=1.0)
    for index, (name, values) in enumerate(panel.series.items()):
        places = [position + (index - (count - 1) / 2) / (count + 1) for position in range(len(values))]
        lengths = [value or 0.0 for value in values]
        axes.barh(places, lengths, 0.86 / (count + 1), color=look(begin + index).color, label=shortened(name))
        for place, value in zip(places, values, strict=True):
            words = panel.absent if value is None else f"{value:.3g}{panel.unit}"
            axes.annotate(words, (value or 0.0, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_title(panel.title)
    axes.set_yticks(range(len(panel.labels)), [shortened(label) for label in panel.labels])
    axes.set_ylim(len(panel.labels) - 0.5, -0.5)
    axes.set_xlim(0, 1.2 * most)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0), ncols=count, fontsize=8, borderpad=0.2, handlelength=1.2)
