"""What the runs' files don't tell, in words: a figure is drawn of what there is, and never empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from qpipe.reporting.run import Run

UNTRAINED: Final = "no record of training: calibrated only, or trained elsewhere"
UNDIAGNOSED: Final = "trained without --diagnose, so nothing was measured"
ROUNDS_NOTHING: Final = "a float network, in which nothing is on a grid"


def missing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """For each part of the page what is not shown there, and why: a sentence for each reason, with the runs' names."""
    trained = [run for run in runs if run.training.epochs]
    diagnosed = [run for run in trained if run.training.diagnostics is not None]
    untrained = _lacking(runs, lambda run: run.training.epochs, UNTRAINED)
    unmeasured = untrained + _lacking(trained, lambda run: run.training.diagnostics, UNDIAGNOSED)

    def measured(name: str, words: str) -> list[str]:
        return unmeasured + _lacking(diagnosed, lambda run: getattr(run.training.diagnostics, name), words)

    def of_grids(name: str, words: str) -> list[str]:
        floats = _lacking(diagnosed, lambda run: not run.is_float, ROUNDS_NOTHING)
        quantized = [run for run in diagnosed if not run.is_float]
        return unmeasured + floats + _lacking(quantized, lambda run: getattr(run.training.diagnostics, name), words)

    # Who trained in another arithmetic misses it beside others alone.
    low_bit = any(run.training.diagnostics and run.training.diagnostics.low_bit for run in diagnosed)
    return {
        "training": [
            *untrained,
            *_lacking(trained, lambda run: len(run.training.epochs) > 1, "a single epoch, which makes no curve"),
            *_lacking(trained, _tells_rate, "the file does not say its learning rates"),
            *_lacking(trained, lambda run: run.training.accuracy_after is not None, "no test accuracy was counted"),
        ],
        "steps": of_grids("step_cosine", "no update was seen"),
        "distance": measured("neuron_cosine", "no neuron was compared"),
        "noise": of_grids("sqnr_after", "no ratio was measured"),
        "low_bit": measured("low_bit", "trained in another arithmetic, so no operand was looked at") if low_bit else [],
        "float": _lacking(
            runs,
            lambda run: run.float_accuracy is not None,
            "the float network's accuracy is not in the file; --float-accuracy tells it",
        ),
        "certificate": _lacking(runs, lambda run: run.certificate or run.is_float, "no certificate"),
    }


def _tells_rate(run: Run) -> bool:
    return any(epoch.lr is not None for epoch in run.training.epochs)


def _lacking(runs: Sequence[Run], has: Callable[[Run], Any], words: str) -> list[str]:
    """One sentence about the runs that have it not; none where all have."""
    names = ", ".join(run.name for run in runs if not has(run))
    return [f"{names}: {words}."] if names else []
