"""Latency, memory, size and accuracy of any number of models, as ratios to the first: `qpipe.bench`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qpipe import progress
from qpipe.data import DataLike
from qpipe.data.inputs import form_of, inputs_of
from qpipe.errors import RecipeError
from qpipe.ir.cost.liveness import activation_peak
from qpipe.ir.files.sizes import fix_sizes
from qpipe.runtime.cpu import this_cpu
from qpipe.runtime.latency import Latency, measure_latency
from qpipe.runtime.memory import measure_memory
from qpipe.runtime.session import open_session
from qpipe.settings import BenchSettings, TaskSettings
from qpipe.verbs.comparison import compare, open_common
from qpipe.verbs.names import told_apart
from qpipe.verbs.options import takes_options
from qpipe.verbs.pictures import check_picture
from qpipe.verbs.runnable import OnnxModel, Runnable, open_all
from qpipe.verbs.sizes import is_open
from qpipe.verbs.sources import ModelPath, PreprocessLike, about

_MEBIBYTE = 2**20
_KIBIBYTE = 2**10
# Of the data at once, where top-1 is counted.
_BATCH_SIZE = 256


@dataclass(frozen=True)
class BenchRow:
    """One model at one batch size.

    size: bytes of the file and its external data, None for a model in memory. median_ms, minimum_ms: of one run.
    speedup: how many times as fast as the first model, by the medians. peak_mib: resident memory of a process that runs
    it, over what the process had before; memory_ratio: to the first's. activation_kib: the most that activations take
    at once, by which of them are alive together (see `qpipe.ir.cost.liveness`), None where a size is unknown;
    activation_ratio: to the first's; activation_node: where. top1: a fraction of 1, None without labelled data, and of
    other tasks; metric: theirs.
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
    activation_kib: float | None
    activation_ratio: float | None
    activation_node: str | None
    top1: float | None
    metric: float | None


@dataclass(frozen=True)
class BenchReport:
    """cpu: in one line, with what it does for 8-bit products. threads: of each session, None: the runtime's choice.

    images: on how many models were judged, None without data. notes: on the runs and the data.
    """

    cpu: str
    threads: int | None
    rows: tuple[BenchRow, ...]
    images: int | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@takes_options
def bench(
    models: Sequence[OnnxModel],
    data: DataLike | None = None,
    *,
    settings: BenchSettings,
    task: TaskSettings,
    preprocess: PreprocessLike = None,
    picture: ModelPath | None = None,
) -> BenchReport:
    """Measure latency, memory and, on data, the task's metric, the models in turn, each as a ratio to the first.

    Args:
        models: float, QDQ or exported. A trainable QDQ model is finalized in memory.
        data: with labels that models are judged by; None, or data without, judges nothing.
        preprocess: what the data's pixels go through; None is what the models carry.
        picture: where to draw the models side by side, at the first batch size: a .png or an .svg.

    Returns:
        One row for each batch size and model, and the CPU that it was measured on.

    Raises:
        ModelError, DataError, RecipeError, OutputError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> report = qpipe.bench(["net.onnx", "net.qdq.onnx"], "digits", repeats=5, limit=100)
        >>> [row.batch_size for row in report.rows], report.rows[0].speedup, report.images
        ([1, 1], 1.0, 100)
    """
    check_picture(picture, (*models, data))
    threads = settings.threads
    if settings.limit is not None and data is None:
        raise RecipeError(f"limit: {settings.limit}, but no data were given; expected data to judge on")
    runnables = open_all(models)
    _fix_sizes(runnables, settings)
    sizes = settings.batch_sizes or _fixed_batch(runnables)
    source = None if data is None else open_common(runnables, data, settings.split, preprocess)
    sessions = [open_session(runnable.source, threads=threads, name=runnable.name) for runnable in runnables]
    latencies = measure_latency(
        sessions,
        sizes,
        repeats=settings.repeats,
        threads=threads,
        seconds=settings.seconds,
        sizes=[runnable.sizes for runnable in runnables],
    )
    # They hold memory and threads that the processes which measure memory are to have.
    del sessions
    memories = _memories(runnables, sizes, settings)
    peaks = [activation_peak(runnable.network, size) for size in sizes for runnable in runnables]
    comparison = (
        None if source is None else compare(runnables, source, _BATCH_SIZE, settings.limit, task, needs_task=False)
    )
    is_of_classes = comparison is None or comparison.task.tells_classes
    rows = []
    for index, (latency, memory, peak) in enumerate(zip(latencies, memories, peaks, strict=True)):
        position = index % len(runnables)
        runnable, first_peak = runnables[position], peaks[index - position]
        rows.append(
            BenchRow(
                name=runnable.name,
                kind=runnable.kind.value,
                size=runnable.size,
                batch_size=latency.batch_size,
                median_ms=1000 * latency.median,
                minimum_ms=1000 * latency.minimum,
                speedup=latency.ratio,
                peak_mib=memory / _MEBIBYTE,
                memory_ratio=memory / max(memories[index - position], 1),
                activation_kib=None if peak is None else peak.size / _KIBIBYTE,
                activation_ratio=None if peak is None or first_peak is None else peak.size / max(first_peak.size, 1),
                activation_node=None if peak is None else peak.node,
                top1=None if comparison is None else comparison.figures[position].top1,
                metric=None if comparison is None or is_of_classes else comparison.figures[position].metric,
            )
        )
    images = None if comparison is None else comparison.images
    told = () if comparison is None else (comparison.task.said,)
    shortened = _shortened(latencies, [runnable.name for runnable in runnables], settings)
    notes = tuple(filter(None, (*shortened, *told, source and source.split_note)))
    report = BenchReport(this_cpu().describe(), threads, tuple(rows), images, notes)
    if picture is not None:
        _draw(report, picture)
    return report


def _fixed_batch(runnables: Sequence[Runnable]) -> tuple[int]:
    """That of the first model whose file fixes one, else 1."""
    found = (form_of(inputs_of(runnable.network.graph)).size for runnable in runnables)
    return (next((size for size in found if size is not None), 1),)


def _fix_sizes(runnables: Sequence[Runnable], settings: BenchSettings) -> None:
    """What was given, of each model; and of one that leaves sizes open, those of another one that knows them."""
    known = {name: at for runnable in reversed(runnables) for name, at in runnable.sizes.items() if None not in at[1:]}
    for runnable in runnables:
        unknown = {str(value.name) for value in runnable.network.graph.inputs if is_open(value)}
        with about(runnable.name):
            found = {name: [size for size in at if size is not None] for name, at in known.items() if name in unknown}
            fix_sizes(runnable.network, {**found, **(settings.input_shape or {})})


def _memories(runnables: Sequence[Runnable], sizes: Sequence[int], settings: BenchSettings) -> list[int]:
    """Bytes that each run adds, in the order of the latencies: batch sizes, and within each the models."""
    runs = [(size, runnable) for size in sizes for runnable in runnables]
    memories = []
    for size, runnable in progress.track(runs, "measuring memory"):
        with runnable.file() as path:
            found = measure_memory(path, size, threads=settings.threads, seconds=settings.seconds, sizes=runnable.sizes)
            memories.append(found.model)
    return memories


def _shortened(latencies: Sequence[Latency], names: Sequence[str], settings: BenchSettings) -> list[str]:
    """A note on each model that the bound in seconds left with fewer runs than were asked for."""
    return [
        f"{names[index % len(names)]}, batch {latency.batch_size}: {latency.runs} of {settings.repeats} runs were "
        f"timed, after {settings.seconds:g} seconds none was begun"
        for index, latency in enumerate(latencies)
        if latency.runs < settings.repeats
    ]


def _draw(report: BenchReport, path: ModelPath) -> None:
    """A panel each for top-1, latency, activations and size, of the first batch size."""
    from qpipe.reporting.bars import Panel, draw_bars, height_of
    from qpipe.reporting.style import drawing, save_picture

    rows = [row for row in report.rows if row.batch_size == report.rows[0].batch_size]
    paths = [Path(row.name) for row in rows]
    names = told_apart([path.name for path in paths], paths)
    panels = [
        Panel("Top-1 accuracy", "%", [None if row.top1 is None else 100 * row.top1 for row in rows], points=True),
        Panel(f"Latency, batch {rows[0].batch_size}", "ms", [row.median_ms for row in rows]),
        Panel("Peak activation memory", "KiB", [row.activation_kib for row in rows]),
        Panel("File size", "kB", [None if row.size is None else row.size / 1000 for row in rows]),
    ]
    with drawing(height_of(len(rows))) as figure:
        draw_bars(figure, names, panels, f"×: the value over the first model's. Measured on {report.cpu}.")
        save_picture(figure, path, "bench", f"{', '.join(names)}: accuracy, latency, memory and size side by side")
