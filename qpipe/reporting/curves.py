"""Loss, metric and learning rate by epoch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Final

from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from qpipe.reporting.record import TrainingRecord
from qpipe.reporting.run import Run
from qpipe.reporting.style import FAINT, drawing, legend_of_runs, look, to_svg
from qpipe.reporting.words import with_unit
from qpipe.settings.task import METRIC_UNITS

COUNTED_IN_TRAINING: Final = frozenset({"top-1", "accuracy"})
"""Metrics that a run also counts on the images that it trains on."""
Points = Sequence[tuple[float, float]]

LOG_FROM: Final = 20
"""An axis is logarithmic where its largest value is so many times its smallest."""
LONGEST_DROP: Final = 4
"""The accuracy's axis ends so many times the runs' usual spread below its top: a start at 10 % would hide the rest."""


def draw_curves(runs: Sequence[Run], float_accuracy: float | None = None, metric: str = "top-1") -> str | None:
    """Three panels, or two where no file tells the learning rate; None where no run has two epochs."""
    shown = [(i, run.training) for i, run in enumerate(runs) if run.training.epochs]
    if not any(len(training.epochs) > 1 for _, training in shown):
        return None
    has_rate = any(epoch.lr is not None for _, training in shown for epoch in training.epochs)
    with drawing(3.3) as figure:
        panels = figure.subplots(1, 3 if has_rate else 2)
        for index, training in shown:
            style = look(index)
            drawn: dict[str, Any] = {"color": style.color, "marker": style.marker}
            _line(panels[0], [(epoch.number, epoch.loss) for epoch in training.epochs], **drawn)
            if metric in COUNTED_IN_TRAINING:
                _line(panels[1], on_training_images(training), **drawn, linestyle=":", alpha=0.7, fillstyle="none")
            _line(panels[1], on_test_images(training, metric), **drawn)
            if has_rate:
                _line(panels[2], [(epoch.number, epoch.lr) for epoch in training.epochs if epoch.lr], **drawn)
        _finish(panels, shown, metric, float_accuracy)
        if len(runs) > 1:
            handles = [Line2D([], [], color=look(i).color, marker=look(i).marker) for i, _ in shown]
            legend_of_runs(figure, [runs[i].name for i, _ in shown], handles)
        return to_svg(figure, "curves", "Loss, accuracy and learning rate by epoch")


def on_training_images(training: TrainingRecord) -> Points:
    """Accuracy on the training images in percent by epoch."""
    return [(epoch.number, 100 * epoch.accuracy) for epoch in training.epochs if epoch.accuracy is not None]


def on_test_images(training: TrainingRecord, metric: str = "top-1") -> Points:
    """The metric on test images in its unit by epoch; epoch 0 is before training."""
    points = [(epoch.number, epoch.test_accuracy) for epoch in training.epochs]
    if points[-1][1] is None:
        points[-1] = (points[-1][0], training.accuracy_after)
    found = [(0, training.accuracy_before), *points]
    return [(number, _scaled(value, metric)) for number, value in found if value is not None]


def _scaled(value: float, metric: str) -> float:
    return 100 * value if METRIC_UNITS.get(metric) == "%" else value


def lowest_shown(lines: Sequence[Sequence[float]]) -> float:
    """Where an axis of accuracies begins: at the least of them, unless that would hide how the runs differ."""
    top, least = max(map(max, lines)), min(map(min, lines))
    usual = min(statistics.quantiles(line, n=4)[0] if len(line) > 1 else line[0] for line in lines)
    return max(least, top - LONGEST_DROP * max(top - usual, 1.0))


def _line(axes: Any, points: Points, **style: Any) -> None:
    """Markers only where they don't run into each other."""
    if points:
        axes.plot(*zip(*points, strict=True), **style, markevery=max(1, len(points) // 12))


def _scale(axes: Any, values: Sequence[float]) -> None:
    """Logarithmic where the values span decades, else from zero."""
    if min(values) > 0 and max(values) > LOG_FROM * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(values) < 200 * min(values) else (1,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(min(0, *values), 1.15 * max(*values, 0) or 1)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _finish(
    panels: Any, shown: Sequence[tuple[int, TrainingRecord]], metric: str, float_accuracy: float | None
) -> None:
    last = max(epoch.number for _, training in shown for epoch in training.epochs)
    for axes, title in zip(panels, ("Training loss", _title(metric), "Learning rate"), strict=False):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.set_xlim(-0.03 * last, 1.03 * last)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for axes in (*panels[:1], *panels[2:]):
        _scale(axes, [value for line in axes.lines for value in line.get_ydata()])
    accuracies = panels[1]
    if float_accuracy is not None:
        accuracies.axhline(_scaled(float_accuracy, metric), color=FAINT, linestyle="--", linewidth=1.2)
    lines = [line.get_ydata() for line in accuracies.lines]
    if lines:
        floor, top = lowest_shown(lines) if metric != "mse" else min(map(min, lines)), max(map(max, lines))
        margin = 0.06 * ((top - floor) or 1)
        accuracies.set_ylim(floor - margin, top + margin)
    kinds = []
    if metric in COUNTED_IN_TRAINING and any(on_training_images(training) for _, training in shown):
        kinds.append(Line2D([], [], color=FAINT, linestyle=":", marker="o", fillstyle="none", label="training images"))
    if any(on_test_images(training) for _, training in shown):
        kinds.insert(0, Line2D([], [], color=FAINT, marker="o", label="test images"))
    if float_accuracy is not None:
        kinds.append(Line2D([], [], color=FAINT, linestyle="--", linewidth=1.2, label="float"))
    if kinds:
        accuracies.legend(handles=kinds, loc="best", fontsize=8)


def _title(metric: str) -> str:
    return "Top-1 accuracy, %" if metric == "top-1" else with_unit(metric)
