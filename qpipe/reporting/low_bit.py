"""What low-bit formats would lose of weights, activations and errors: the MLS paper's Figures 3 and 5.

Source: *Exploring the Potential of Low-bit Training of Convolutional Neural Networks*, section 5.1 and appendix C.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, Final

from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from qpipe.arith.mls.generators import Role
from qpipe.reporting.record import LowBitFormat, LowBitRecord, Split
from qpipe.reporting.style import COLORS, drawing, look, short_names, to_svg

ROLES: Final[dict[Role, str]] = {"weight": "Weights", "activation": "Activations", "error": "Errors"}
GROUPED: Final[tuple[Role, ...]] = ("activation", "error")
SPLITS: Final[dict[Split, str]] = {"channel": "by channel", "sample": "by sample", "both": "by both"}
OF_EACH, OF_ALL, HALF = COLORS[0], COLORS[2], COLORS[1]
"""As in the paper: blue, green and red."""

Values = Sequence[float | None]


def draw_relative_errors(found: LowBitRecord, name: str) -> str:
    """Figure 3, of the last update that was looked at: a row for each question, a column for each of W, A and E.

    name: a word of its own for each picture of a page.
    """
    rows = questions(found.formats)
    with drawing(0.9 + 2.0 * len(rows)) as figure:
        panels = figure.subplots(len(rows), len(ROLES), sharey=True, sharex=True, squeeze=False)
        for (title, lines), row in zip(rows.items(), panels, strict=True):
            for axes, role in zip(row, ROLES, strict=True):
                for index, position in enumerate(lines.values()):
                    _by_layer(axes, found.relative_error[role][-1][position], index)
            row[0].set_ylabel("average relative error")
            _legend(row[-1], list(lines), title)
        for axes, title in zip(panels[0], ROLES.values(), strict=True):
            axes.set_title(title)
        panels[0][0].set_ylim(0, 1.04)
        for axes in panels[-1]:
            axes.set_xlabel("layer")
        return to_svg(figure, name, "Average relative quantization error by layer, for groupings and exponents")


def draw_group_maxima(found: LowBitRecord, name: str) -> str:
    """Figure 5 of one layer, and for all layers the share of groups below half of the largest; name as above."""
    with drawing(5.6) as figure:
        grid = figure.add_gridspec(2, 1)
        upper, lower = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
        pairs: list[tuple[Role, Split]] = [(role, split) for role in GROUPED for split in ("channel", "sample")]
        for axes, (role, split) in zip(upper.subplots(1, len(pairs)), pairs, strict=True):
            _draw_maxima(axes, found.maxima[role][split])
            axes.set_title(f"{ROLES[role]} {SPLITS[split]}")
            axes.set_xlabel(split)
        upper.axes[0].set_ylabel("largest magnitude")
        handles = [Line2D([], [], color=color) for color in (OF_EACH, OF_ALL, HALF)]
        upper.legend(handles, ["of each group", "of all", "half of it"], loc="outside upper left", ncols=3)
        panels = lower.subplots(1, len(GROUPED), sharey=True)
        for axes, role in zip(panels, GROUPED, strict=True):
            for index, split in enumerate(SPLITS):
                _by_layer(axes, [_percent(share) for share in found.below_half[role][split][-1]], index)
            axes.set_title(f"{ROLES[role]}: groups below half of the largest, %")
            axes.set_ylim(0, 102)
            axes.set_xlabel("layer")
        _legend(panels[-1], list(SPLITS.values()), "groups")
        return to_svg(figure, name, "Largest magnitudes of groups, and the share of groups below half of the largest")


def questions(formats: Sequence[LowBitFormat]) -> dict[str, dict[str, int]]:
    """The rows of Figure 3: a title, and for each line's label its format's position."""
    least = min(fmt.element for fmt in formats)
    groupings = {str(fmt.grouping): i for i, fmt in enumerate(formats) if fmt.element == least}
    rows = {f"{_element(least)}, groups": groupings}
    for grouping, title in (("none", "no groups"), ("nc", "groups nc")):
        rows[title] = {_element(fmt.element): i for i, fmt in enumerate(formats) if fmt.grouping == grouping}
    return {title: lines for title, lines in rows.items() if lines}


def mean_table(found: LowBitRecord) -> list[dict[str, Any]]:
    """For each format, and each of W, A and E, the mean over all layers at each update that was looked at."""
    return [
        {
            "format": _element(fmt.element) + ("" if fmt.grouping == "none" else f", {fmt.grouping}"),
            "means": [_mean(update[i]) for role in ROLES for update in found.relative_error[role]],
        }
        for i, fmt in enumerate(found.formats)
    ]


def share_table(found: LowBitRecord) -> list[dict[str, Any]]:
    """For each layer the share of groups below half of the largest, at the last update that was looked at."""
    return [
        {"layer": name, "shares": [found.below_half[role][split][-1][i] for role in GROUPED for split in SPLITS]}
        for i, name in enumerate(short_names(found.layers))
    ]


def _by_layer(axes: Any, values: Values, index: int) -> None:
    """A line over the layers' numbers, from 1; a gap where nothing was measured."""
    style = look(index)
    known = [math.nan if value is None else value for value in values]
    axes.plot(range(1, len(known) + 1), known, color=style.color, marker=style.marker, markersize=3.5, linewidth=1.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _draw_maxima(axes: Any, maxima: Values) -> None:
    known = [math.nan if value is None else value for value in maxima]
    axes.plot(range(1, len(known) + 1), known, color=OF_EACH, linewidth=1.2)
    whole = max((value for value in maxima if value is not None), default=0.0)
    axes.axhline(whole, color=OF_ALL, linewidth=1.2)
    axes.axhline(whole / 2, color=HALF, linewidth=1.2)
    axes.set_ylim(0, 1.06 * whole or 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    # Errors are small: 5e-05 is shorter than its zeros.
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _legend(axes: Any, labels: Sequence[str], title: str) -> None:
    """Right of the last panel of a row."""
    handles = [Line2D([], [], color=look(i).color, marker=look(i).marker, markersize=3.5) for i in range(len(labels))]
    axes.legend(
        handles, labels, title=title, loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, alignment="left"
    )


def _element(widths: tuple[int, int]) -> str:
    return f"⟨{widths[0]}, {widths[1]}⟩"


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _mean(values: Values) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None
