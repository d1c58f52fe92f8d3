"""Latency of models, taken in turn, so that what disturbs the machine disturbs all of them.

Sessions don't spin: spinning threads of one would take the cores from the next.
"""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import onnxruntime as ort

from qpipe.data.inputs import Form, Input, form_of
from qpipe.errors import ModelError, RecipeError
from qpipe.processes import free_memory
from qpipe.progress import track
from qpipe.runtime.probes import random_numbers
from qpipe.runtime.session import AnyModel, Array, as_session, inputs_of, run_rows, session_name

Sizes = Mapping[str, Sequence[int | None]]
"""What is computed at where a model leaves sizes open, by the inputs' names; None of a batch."""

REPEATS: Final = 100
RUNS_PER_TURN: Final = 5
WARM_UP: Final = 3


@dataclass(frozen=True)
class Latency:
    """One model at one batch size: seconds of one run.

    ratio: how many times as fast as the first model, by the medians; ratio_of_minima: the same by the minima. runs: how
    many were timed.
    """

    name: str
    batch_size: int
    median: float
    minimum: float
    ratio: float
    ratio_of_minima: float
    runs: int


def measure_latency(
    models: Sequence[AnyModel | ort.InferenceSession],
    batch_sizes: Sequence[int] = (1,),
    *,
    repeats: int = REPEATS,
    warm_up: int = WARM_UP,
    threads: int | None = None,
    seconds: float = math.inf,
    sizes: Sequence[Sizes] = (),
) -> list[Latency]:
    """Time `repeats` runs of every model at every batch size, the models in turn, a few runs each time.

    seconds: of each, after which no more are begun; one of each model is timed in any case. sizes: of each model; see
    `random_input`.

    Before the timed runs of its turn a model runs once untimed, because its weights have left the caches. Inputs are
    random, of the model's type. Raises ModelError where a model can't be opened or doesn't take a batch size.
    """
    if not batch_sizes or min(repeats, *batch_sizes) < 1:
        raise RecipeError(f"repeats {repeats}, batch sizes {list(batch_sizes)}: expected numbers from 1")
    if not models:
        raise ModelError("no models to measure; expected one or more")
    sessions = [as_session(model, threads) for model in models]
    latencies: list[Latency] = []
    for size in batch_sizes:
        feeds = [random_input(s, size, own) for s, own in zip(sessions, sizes or [{}] * len(sessions), strict=True)]
        times = _in_turn(sessions, feeds, batch_size=size, repeats=repeats, warm_up=warm_up, seconds=seconds)
        latencies += [_latency(session, size, own, times[0]) for session, own in zip(sessions, times, strict=True)]
    return latencies


def random_input(
    session: ort.InferenceSession, batch_size: int, sizes: Sizes = MappingProxyType({})
) -> dict[str, Array]:
    """Random values for the model's inputs, as `random_numbers` gives them.

    sizes: what is taken for those that the model leaves open.

    ModelError where a dimension other than the batch is open that `sizes` does not say, or the batch is fixed at
    another size; RecipeError where it would take more memory than is free.
    """
    inputs = inputs_of(session)
    form = form_of(inputs)
    if form.size not in (None, batch_size):
        kind = f"batches of {form.size}" if form.is_batched else "single samples"
        raise ModelError(
            f"{session_name(session)}: takes {kind}, not {'' if form.is_batched else 'batches '}of {batch_size}"
        )
    shapes = {each.name: _shape(each, form, batch_size, sizes, session) for each in inputs}
    if (needed := max(map(math.prod, shapes.values())) * 8) > (free := free_memory()):
        raise RecipeError(f"batch size {batch_size}: an input takes {needed:,} bytes, of {free:,} that are free")
    rng = np.random.default_rng(0)
    return {each.name: random_numbers(shapes[each.name], each.dtype, rng) for each in inputs}


def _shape(each: Input, form: Form, batch_size: int, sizes: Sizes, session: ort.InferenceSession) -> tuple[int, ...]:
    declared = each.shape or ()
    known = sizes.get(each.name, declared)
    found = [own if isinstance(own, int) else said for own, said in zip(declared, known, strict=True)]
    if form.is_batched:
        found[0] = batch_size
    if not all(isinstance(size, int) for size in found):
        example = ",".join(str(size) if isinstance(size, int) else "N" for size in found[form.is_batched :])
        raise ModelError(
            f"{session_name(session)}: input '{each.name}' is {list(declared)}; expected its sizes, as in "
            f"--input-shape {each.name}={example}"
        )
    return tuple(size for size in found if isinstance(size, int))


def _in_turn(
    sessions: Sequence[ort.InferenceSession],
    feeds: Sequence[dict[str, Array]],
    *,
    batch_size: int,
    repeats: int,
    warm_up: int,
    seconds: float,
) -> list[list[float]]:
    """Seconds of each timed run, a list for each session."""
    times: list[list[float]] = [[] for _ in sessions]
    until = time.monotonic() + seconds * len(sessions)
    for session, feed in zip(sessions, feeds, strict=True):
        for _ in range(warm_up):
            run_rows(session, feed)
            if time.monotonic() > until:
                break
    for done in track(range(0, repeats, RUNS_PER_TURN), f"latency at batch {batch_size}"):
        for session, feed, own in zip(sessions, feeds, times, strict=True):
            if time.monotonic() < until:
                session.run(None, feed)
            for _ in range(min(RUNS_PER_TURN, repeats - done)):
                if own and time.monotonic() > until:
                    break
                start = time.perf_counter()
                session.run(None, feed)
                own.append(time.perf_counter() - start)
        if time.monotonic() > until:
            break
    return times


def _latency(session: ort.InferenceSession, batch_size: int, own: list[float], first: list[float]) -> Latency:
    median, minimum = statistics.median(own), min(own)
    ratio, ratio_of_minima = statistics.median(first) / median, min(first) / minimum
    return Latency(session_name(session), batch_size, median, minimum, ratio, ratio_of_minima, len(own))
