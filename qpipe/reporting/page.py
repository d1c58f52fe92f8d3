"""The page itself: one HTML file that opens without a network, made by a template from runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qpipe.errors import ModelError, printable
from qpipe.reporting.curves import draw_curves
from qpipe.reporting.distance import draw_neuron_cosine
from qpipe.reporting.low_bit import draw_group_maxima, draw_relative_errors, mean_table, share_table
from qpipe.reporting.missing import missing
from qpipe.reporting.noise import diagnosed, draw_noise, draw_step_cosine, same_width
from qpipe.reporting.run import Run
from qpipe.reporting.style import look, short_names
from qpipe.reporting.tables import noise_tables, step_table
from qpipe.reporting.words import FILTERS, metric_key, widths, with_unit


def render(runs: Sequence[Run], title: str) -> str:
    """The page; equal runs give equal text."""
    environment = Environment(
        loader=PackageLoader("qpipe.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= FILTERS
    floats = {run.float_accuracy for run in runs}
    metric = metric_of(runs)
    return environment.get_template("page.html.jinja").render(
        title=title,
        runs=runs,
        colors=[look(index).color for index in range(len(runs))],
        widths={run.name: _widths(run) for run in runs},
        figures={
            "curves": draw_curves(runs, floats.pop() if len(floats) == 1 else None, metric),
            "steps": draw_step_cosine(runs),
            "distance": draw_neuron_cosine(runs),
            "noise": draw_noise(runs),
        },
        low_bit=low_bit_parts(runs),
        is_float=all(run.is_float for run in runs),
        missing=missing(runs),
        metric=metric,
        metric_head=with_unit(metric),
        metric_key=metric_key(metric),
        sizes={run.name: {file.name: file.size for file in run.files} for run in runs},
        step_table=step_table(runs),
        noise_tables=noise_tables(runs),
        diagnosed=[run.name for _, run, _ in diagnosed(runs)],
        measured=[run.name for _, run, found in diagnosed(runs) if found.sqnr_before and found.sqnr_after],
        shaded=bool(same_width([found for *_, found in diagnosed(runs) if found.step_cosine])),
        updates=[found.step_updates for *_, found in diagnosed(runs) if found.step_updates],
    )


def low_bit_parts(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Of each run whose operands were looked at: its position, the record, both pictures, and their tables."""
    found = [(index, record.low_bit) for index, _, record in diagnosed(runs) if record.low_bit is not None]
    return [
        {
            "index": index,
            "record": record,
            "errors": draw_relative_errors(record, f"errors{index}"),
            "maxima": draw_group_maxima(record, f"maxima{index}"),
            "means": mean_table(record),
            "shares": share_table(record),
            "layer": short_names([record.maxima_layer])[0],
        }
        for index, record in found
    ]


def _widths(run: Run) -> tuple[str, str]:
    if run.is_float:
        return "float", "float"
    return widths(run.weight_bits, "layer"), widths(run.activation_bits, "tensor")


def _shown(value: object) -> object:
    """What an expression of the template becomes: of a name, what a page can hold and a reader see."""
    return printable(str(value)) if isinstance(value, str | Path) and not isinstance(value, Markup) else value


def metric_of(runs: Sequence[Run]) -> str:
    """What all runs are judged by; ModelError where that is not one metric."""
    found = dict.fromkeys(run.training.metric for run in runs if run.training.epochs or len(runs) == 1)
    if len(found) > 1:
        raise ModelError(f"the runs are judged by {' and '.join(found)}, expected one metric on a page")
    return next(iter(found), "top-1")
