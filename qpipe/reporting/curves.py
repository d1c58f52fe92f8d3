"""Loss, accuracy and learning rate by epoch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Final

from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from qpipe.reporting.record import TrainingRecord
from qpipe.reporting.run import Run
from qpipe.reporting.style import FAINT, drawing, legend_of_runs, look, to_svg

Points = Sequence[tuple[float, float]]

LOG_FROM: Final = 20
"""An axis is logarithmic where its largest value is so many times its smallest."""
LONGEST_DROP: Final = 4
"""The accuracy's axis ends so many times the runs' usual spread below its top: a start at 10 % would hide the rest."""


def draw_curves(runs: Sequence[Run], float_accuracy: float | None = None) -> str | None:
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
            _line(panels[1], on_training_images(training), **drawn, linestyle=":", alpha=0.7, fillstyle="none")
            _line(panels[1], on_test_images(training), **drawn)
            if has_rate:
                _line(panels[2], [(epoch.number, epoch.lr) for epoch in training.epochs if epoch.lr], **drawn)
        _finish(panels, shown, float_accuracy)
        if len(runs) > 1:
            handles = [Line2D([], [], color=look(i).color, marker=look(i).marker) for i, _ in shown]
            legend_of_runs(figure, [runs[i].name for i, _ in shown], handles)
        return to_svg(figure, "curves", "Loss, accuracy and learning rate by epoch")


def on_training_images(training: TrainingRecord) -> Points:
    """Accuracy on the training images in percent by epoch."""
    return [(epoch.number, 100 * epoch.accuracy) for epoch in training.epochs]


def on_test_images(training: TrainingRecord) -> Points:
    """Test accuracy in percent by epoch; epoch 0 is before training."""
    points = [(epoch.number, epoch.test_accuracy) for epoch in training.epochs]
    if points[-1][1] is None:
        points[-1] = (points[-1][0], training.accuracy_after)
    return [(number, 100 * top1) for number, top1 in [(0, training.accuracy_before), *points] if top1 is not None]


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


def _finish(panels: Any, shown: Sequence[tuple[int, TrainingRecord]], float_accuracy: float | None) -> None:
    last = max(epoch.number for _, training in shown for epoch in training.epochs)
    for axes, title in zip(panels, ("Training loss", "Top-1 accuracy, %", "Learning rate"), strict=False):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.set_xlim(-0.03 * last, 1.03 * last)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for axes in (*panels[:1], *panels[2:]):
        _scale(axes, [value for line in axes.lines for value in line.get_ydata()])
    accuracies = panels[1]
    if float_accuracy is not None:
        accuracies.axhline(100 * float_accuracy, color=FAINT, linestyle="--", linewidth=1.2)
    lines = [line.get_ydata() for line in accuracies.lines]
    floor, top = lowest_shown(lines), max(map(max, lines))
    margin = 0.06 * ((top - floor) or 1)
    accuracies.set_ylim(floor - margin, top + margin)
    kinds = [Line2D([], [], color=FAINT, linestyle=":", marker="o", fillstyle="none", label="training images")]
    if any(on_test_images(training) for _, training in shown):
        kinds.insert(0, Line2D([], [], color=FAINT, marker="o", label="test images"))
    if float_accuracy is not None:
        kinds.append(Line2D([], [], color=FAINT, linestyle="--", linewidth=1.2, label="float"))
    accuracies.legend(handles=kinds, loc="best", fontsize=8)
