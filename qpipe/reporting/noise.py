"""FAQ's Figure 1, and the signal-to-quantization-noise ratios: what rounding adds, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.lines import Line2D

from qpipe.reporting.record import DiagnosticsRecord
from qpipe.reporting.run import Run
from qpipe.reporting.style import FAINT, drawing, label_layers, legend_of_runs, look, short_names, to_svg

Diagnosed = list[tuple[int, Run, DiagnosticsRecord]]
Part = Literal["weight", "activation"]
RING: Any = {"ls": "", "fillstyle": "none", "markersize": 7.5, "markeredgewidth": 1.1}
DOT: Any = {"ls": "", "markersize": 4.0}
"""Before and after: where both are the same, the dot stands in the ring."""


def diagnosed(runs: Sequence[Run]) -> Diagnosed:
    """The runs that carry diagnostics, with their positions."""
    return [
        (index, run, run.training.diagnostics) for index, run in enumerate(runs) if run.training.diagnostics is not None
    ]


def draw_step_cosine(runs: Sequence[Run]) -> str | None:
    """Cosine by layer, a line for each run; layers of one width in all runs are shaded where other layers differ."""
    shown = [(index, run, found) for index, run, found in diagnosed(runs) if found.step_cosine]
    if not shown:
        return None
    with drawing(4.0) as figure:
        axes = figure.subplots()
        handles = []
        for index, _, found in shown:
            style = look(index)
            cosines = found.step_cosine or []
            handles += axes.plot(range(len(cosines)), cosines, color=style.color, marker=style.marker)
        for layer in same_width([found for *_, found in shown]):
            axes.axvspan(layer - 0.5, layer + 0.5, color="#eef1f5", zorder=0)
        axes.set_ylabel("cosine similarity")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        label_layers(axes, layer_names([found.layers for *_, found in shown]))
        if len(runs) > 1:
            legend_of_runs(figure, [run.name for _, run, _ in shown], handles)
        return to_svg(figure, "steps", "Cosine between the step asked for and the steps taken, by layer and run")


def draw_noise(runs: Sequence[Run]) -> str | None:
    """Two panels, weights and activations: hollow before training, filled after."""
    shown = [item for item in diagnosed(runs) if item[2].sqnr_before is not None and item[2].sqnr_after is not None]
    if not shown:
        return None
    with drawing(6.8) as figure:
        weights, activations = figure.subplots(2, 1)
        _draw_ratios(weights, shown, "weight")
        _draw_ratios(activations, shown, "activation")
        handles: list[Any] = [Line2D([], [], color=look(i).color, marker=look(i).marker, **DOT) for i, *_ in shown]
        names = [run.name for _, run, _ in shown] if len(runs) > 1 else []
        handles = handles[: len(names)]
        handles += [Line2D([], [], color=FAINT, marker="o", **fill) for fill in (RING, DOT)]
        legend_of_runs(figure, [*names, "before training", "after"], handles)
        return to_svg(figure, "noise", "Signal-to-quantization-noise ratio by layer, before and after training")


def _draw_ratios(axes: Any, shown: Diagnosed, part: Part) -> None:
    """One panel: a stem from before to after for each layer and run, side by side; what loses nothing is left out."""
    drawn = lossy([found for *_, found in shown], part)
    for place, (index, _, found) in enumerate(shown):
        style = look(index)
        offset = 0.5 * (place - (len(shown) - 1) / 2) / len(shown)
        before, after = ratios(found, part)
        for values, fill in ((before, RING), (after, DOT)):
            points = [(x + offset, values[i]) for x, i in enumerate(drawn) if i < len(values) and values[i] is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker=style.marker, color=style.color, **fill)
        ends = [(x + offset, before[i], after[i]) for x, i in enumerate(drawn) if i < min(len(before), len(after))]
        stems = [(x, low, high) for x, low, high in ends if low is not None and high is not None]
        if stems:
            axes.vlines(*zip(*stems, strict=True), color=style.color, linewidth=1.0, alpha=0.6)
    axes.set_title({"weight": "Weights", "activation": "Activations"}[part])
    axes.set_ylabel("SQNR, dB")
    names = layer_names([found.layers if part == "weight" else found.activations for *_, found in shown])
    label_layers(axes, [names[i] for i in drawn])


def lossy(records: Sequence[DiagnosticsRecord], part: Part) -> list[int]:
    """The positions of what loses something in any run, before or after."""
    columns = [column for record in records for column in ratios(record, part)]
    longest = max(map(len, columns))
    return [i for i in range(longest) if any(i < len(column) and column[i] is not None for column in columns)]


def ratios(found: DiagnosticsRecord, part: Part) -> tuple[list[float | None], list[float | None]]:
    """dB before and after."""
    assert found.sqnr_before is not None
    assert found.sqnr_after is not None
    return getattr(found.sqnr_before, part), getattr(found.sqnr_after, part)


def layer_names(lists: Sequence[Sequence[str]]) -> list[str]:
    """Short names where all runs have the same layers; numbers where they differ."""
    if all(names == lists[0] for names in lists):
        return short_names(lists[0])
    return [str(i + 1) for i in range(max(map(len, lists)))]


def same_width(records: Sequence[DiagnosticsRecord]) -> list[int]:
    """Layers that have one width in all runs, where others have not: there the runs should agree."""
    widths = list(zip(*(record.weight_bits for record in records), strict=False))
    same = [i for i, bits in enumerate(widths) if len(set(bits)) == 1]
    return same if len(same) < len(widths) else []
