"""Latency, peak memory and size of any number of models: `qpipe.bench`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qpipe import progress
from qpipe.runtime import cpu
from qpipe.runtime.latency import Latency, measure_latency
from qpipe.runtime.memory import PeakMemory, measure_memory
from qpipe.runtime.session import open_session
from qpipe.verbs.runnable import OnnxModel, Runnable, open_all

_MEBIBYTE = 2**20


@dataclass(frozen=True)
class BenchRow:
    """One model at one batch size.

    size: bytes of the file and its external data, None for a model in memory. median_ms, minimum_ms: of one run.
    speedup: how many times as fast as the first model, by the medians. peak_mib: resident memory of a process that runs
    it, over what the process had before; memory_ratio: to the first's.
    """

    name: str
    kind: str
    size: int | None
    batch_size: int
    median_ms: float
    minimum_ms: float
    speedup: float
    peak_mib: float
    memory_ratio: float


@dataclass(frozen=True)
class BenchReport:
    """cpu: in one line, with what it does for 8-bit products. threads: of each session, None: the runtime's choice."""

    cpu: str
    threads: int | None
    rows: tuple[BenchRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def bench(
    models: Sequence[OnnxModel],
    *,
    batch_sizes: Sequence[int] = (1,),
    repeats: int = 50,
    threads: int | None = None,
) -> BenchReport:
    """Measure latency and peak memory, the models in turn, each as a ratio to the first.

    Args:
        models: float, QDQ or exported. A trainable QDQ model is finalized in memory.
        batch_sizes: images in a run.
        repeats: timed runs of each model at each batch size.
        threads: of each session.

    Returns:
        One row for each batch size and model, and the CPU that it was measured on.

    Raises:
        ModelError, RecipeError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> report = qpipe.bench(["net.onnx", "net.qdq.onnx"], repeats=5)
        >>> [row.batch_size for row in report.rows], report.rows[0].speedup
        ([1, 1], 1.0)
    """
    runnables = open_all(models)
    sessions = [open_session(runnable.source, threads=threads, name=runnable.name) for runnable in runnables]
    latencies = measure_latency(sessions, batch_sizes, repeats=repeats, threads=threads)
    # They hold memory and threads that the processes which measure memory are to have.
    del sessions
    memories = _memories(runnables, batch_sizes, threads)
    rows = []
    for index, latency in enumerate(latencies):
        first = memories[index - index % len(runnables)]
        rows.append(_row(runnables[index % len(runnables)], latency, memories[index], first))
    return BenchReport(cpu.describe(), threads, tuple(rows))


def _memories(runnables: Sequence[Runnable], batch_sizes: Sequence[int], threads: int | None) -> list[PeakMemory]:
    """In the order of the latencies: batch sizes, and within each the models."""
    runs = [(size, runnable) for size in batch_sizes for runnable in runnables]
    memories = []
    for size, runnable in progress.track(runs, "measuring memory"):
        with runnable.file() as path:
            memories.append(measure_memory(path, size, threads=threads))
    return memories


def _row(runnable: Runnable, latency: Latency, memory: PeakMemory, first: PeakMemory) -> BenchRow:
    return BenchRow(
        name=runnable.name,
        kind=runnable.kind.value,
        size=runnable.size,
        batch_size=latency.batch_size,
        median_ms=1000 * latency.median,
        minimum_ms=1000 * latency.minimum,
        speedup=latency.ratio,
        peak_mib=memory.model / _MEBIBYTE,
        memory_ratio=memory.model / max(first.model, 1),
    )
