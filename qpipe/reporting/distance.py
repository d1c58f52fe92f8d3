"""FAQ's Figure 2: how far the weights of each neuron went from where they began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from qpipe.reporting.noise import diagnosed
from qpipe.reporting.record import NeuronRecord
from qpipe.reporting.run import Run
from qpipe.reporting.style import INK, drawing, look, shortened, to_svg

Neurons = list[tuple[int, str, NeuronRecord]]

ALMOST_ONE: Final = 0.9999
"""Above it, four decimals would only say 1."""


def draw_neuron_cosine(runs: Sequence[Run]) -> str | None:
    """Left the mean with its deviation, a bar for each run; right the shares of neurons by cosine."""
    shown = [(i, run.name, found.neuron_cosine) for i, run, found in diagnosed(runs) if found.neuron_cosine is not None]
    if not shown:
        return None
    with drawing(max(2.6, 1.4 + 0.4 * len(shown))) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        _draw_means(left, shown)
        _draw_shares(right, shown)
        return to_svg(figure, "distance", "Cosine between initial and final weights of each neuron, by run")


def _draw_means(axes: Any, shown: Neurons) -> None:
    for place, (index, _, found) in enumerate(shown):
        axes.barh(place, found.mean, height=0.55, color=look(index).color, alpha=0.85)
        axes.errorbar(found.mean, place, xerr=found.std, color=INK, capsize=3, linewidth=1.2)
        end = max(found.mean + found.std, 0)
        digits = 4 if found.mean < ALMOST_ONE else 6
        text = f"{found.mean:.{digits}f} ± {found.std:.{digits}f}"
        axes.annotate(text, (end, place), (6, 0), textcoords="offset points", va="center")
    axes.set_title("Mean over all neurons, ± standard deviation")
    axes.set_xlim(min(0.0, *(1.1 * (found.mean - found.std) for *_, found in shown)), 1.5)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_yticks(range(len(shown)), [shortened(name) for _, name, _ in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("cosine similarity")


def _draw_shares(axes: Any, shown: Neurons) -> None:
    lowest = 1.0
    for index, _, found in shown:
        edges, shares = shares_of(found)
        lowest = min(lowest, next(edge for edge, share in zip(edges, shares, strict=False) if share))
        axes.stairs(shares, edges, color=look(index).color, linewidth=1.6, fill=False)
        axes.stairs(shares, edges, color=look(index).color, fill=True, alpha=0.2)
    axes.set_title("Share of neurons, %")
    axes.set_xlim(min(lowest, 0.9) - 0.01, 1.002)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("cosine similarity of a neuron's weights, initial and final")


def shares_of(found: NeuronRecord) -> tuple[list[float], list[float]]:
    """Edges of the bins from -1 to 1, and the percentage of neurons in each."""
    bins, total = len(found.histogram), sum(found.histogram)
    return [2 * i / bins - 1 for i in range(bins + 1)], [100 * count / total for count in found.histogram]
