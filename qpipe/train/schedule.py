"""The learning rate, and how many batches make one update, at any moment of a run.

A moment is counted in epochs since the start, as an exact fraction: what changes at epoch 30 of 110 changes, in a run
of one epoch, at the first update that begins after 30/110 of its batches.

Source: FAQ, sections 3.3 (exponential), 4.5 (step) and 4.4 with footnote 6 (growing batches, virtual ones). Not in the
papers: the cosine (Loshchilov and Hutter 2017, equation 5, without restarts) and the warm-up (Goyal et al. 2017,
section 2.2).
"""

from __future__ import annotations

import math
from fractions import Fraction

from qpipe.data import Source
from qpipe.errors import RecipeError
from qpipe.settings import FinetuneSettings

FALL = 10
"""What a step schedule divides by."""
GROWTH = 2
"""What a growing batch is multiplied by."""


def moment(epochs_done: int, batches_done: int, batches: int | None) -> Fraction:
    """The moment after that many of an epoch's batches; its start where their number is not known (a stream)."""
    return Fraction(epochs_done) + (Fraction(batches_done, batches) if batches else 0)


def check_stream(run: FinetuneSettings, size: int | None) -> None:
    """Raise RecipeError for what falls over a part of the run, where it would not have fallen at the last update.

    A run on a stream, whose size is None, moves on from epoch to epoch alone; so it can't warm up either.
    """
    if size is None and run.warmup:
        raise RecipeError(
            f"warmup: {float(run.warmup):g} epochs of a stream, which moves on from epoch to epoch alone, expected 0"
        )
    parts = {"fade": Fraction(run.fade)}
    parts |= {"ssp_end": run.ssp_end} if run.ssp else {}
    parts |= {"freeze_scales": run.freeze_scales} if run.train_scales else {}
    for name, part in parts.items():
        if size is None and part > 1 - Fraction(1, run.epochs):
            enough = f", or at least {math.ceil(1 / (1 - part))} epochs" if part < 1 else ""
            raise RecipeError(
                f"{name}: {float(part):g} of {run.epochs} epochs of a stream, which moves on from epoch to epoch "
                f"alone, expected a smaller part{enough}"
            )


def learning_rate(settings: FinetuneSettings, at: Fraction) -> float:
    """The rate of an update that begins at this moment.

    exponential: `lr (lr_end / lr) ** (e / N)` in epoch e of N, counted from 0, so any length has the same two ends.
    step: lr divided by 10 for every milestone that is past; lr_end, where there is one, once all are.
    linear, cosine: from lr to lr_end (or 0) behind the warm-up, a little less at every update.
    All are multiplied by what part of the warm-up is past.
    """
    rise = min(at / settings.warmup, Fraction(1)) if settings.warmup else Fraction(1)
    return float(rise) * _scheduled(settings, at)


def _scheduled(settings: FinetuneSettings, at: Fraction) -> float:
    """The rate without its rise."""
    if settings.schedule == "exponential":
        assert settings.lr_end is not None
        return float(settings.lr * (settings.lr_end / settings.lr) ** (int(at) / settings.epochs))
    if settings.schedule in {"linear", "cosine"}:
        end = settings.lr_end or 0.0
        done = float(max(at - settings.warmup, Fraction(0)) / (settings.epochs - settings.warmup))
        fallen = done if settings.schedule == "linear" else (1 - math.cos(math.pi * done)) / 2
        return settings.lr + (end - settings.lr) * fallen
    if settings.schedule == "step":
        passed = sum(milestone <= at for milestone in settings.milestones)
        if settings.lr_end is not None and passed == len(settings.milestones):
            return settings.lr_end
        return float(settings.lr / FALL**passed)
    return settings.lr


def batches_per_update(settings: FinetuneSettings, at: Fraction) -> int:
    """n, the real batches whose gradients one update averages, if it begins at this moment."""
    return int(GROWTH ** sum(epoch <= at for epoch in settings.grow_at))


def drops_last(settings: FinetuneSettings, source: Source) -> bool:
    """Whether a last batch that is smaller is left out: where there are others."""
    return source.size is not None and source.size >= settings.batch_size


def batches_of(settings: FinetuneSettings, source: Source) -> int | None:
    """Real batches in an epoch; None for a stream."""
    return source.n_batches(settings.batch_size, drop_last=drops_last(settings, source))


def updates_of(settings: FinetuneSettings, source: Source) -> int | None:
    """Updates of a whole run; None on a stream. The last one of an epoch may average fewer batches."""
    batches = batches_of(settings, source)
    if batches is None:
        return None
    if not settings.grow_at:
        return settings.epochs * batches
    updates = 0
    for epoch in range(settings.epochs):
        done = 0
        while done < batches:
            done += batches_per_update(settings, moment(epoch, done, batches))
            updates += 1
    return updates
