"""Progress with an estimate of the remaining time, on stderr only, and only where somebody asked for it.

Nothing is shown unless `with reporting():` is active, as it is in the command line; from Python the verbs are silent.
On a terminal rich draws bars; elsewhere plain lines come after the first second and then every five seconds at most.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol, TypeVar

from qpipe.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")

FIRST_LINE_SECONDS = 1.0
"""What takes less than this stays silent where there is no terminal."""
LINE_SECONDS = 5.0
"""Plain lines of one loop are at least this far apart."""


class _Task(Protocol):
    def advance(self) -> None: ...
    def finish(self, *, complete: bool) -> None: ...


_Start = Callable[[str, int | None, bool], _Task]
"""Begins to show a loop or stage: its description, the number of its items, and whether it has items at all."""


class Fact(Protocol):
    """Something that a command says, as one line; two that are equal are said once."""

    def line(self) -> str:
        """What is shown."""


_start: ContextVar[_Start | None] = ContextVar("qpipe_progress", default=None)
_told: ContextVar[list[Fact] | None] = ContextVar("qpipe_told", default=None)


@contextmanager
def reporting() -> Iterator[list[Fact]]:
    """Show the progress of every `track` and `step` inside the block, on stderr, and what is told; gives the latter."""
    told: list[Fact] = []
    tokens = _start.set(_Bars().start if sys.stderr.isatty() else _LineTask), _told.set(told)
    try:
        yield told
    finally:
        _start.reset(tokens[0])
        _told.reset(tokens[1])


def tell(fact: Fact) -> None:
    """Show a line on stderr, where somebody asked for progress and it was not shown yet."""
    told = _told.get()
    if told is not None and fact not in told:
        told.append(fact)
        print(printable(fact.line()), file=sys.stderr, flush=True)


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield the items of `iterable`, with a line of progress for them.

    `total` is the number of items where `iterable` has no length of its own; without either there is no estimate.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with _shown(printable(description), total, counted=True) as task:
        for item in iterable:
            yield item
            if task is not None:
                task.advance()


def say(line: str) -> None:
    """Tell what was found, one line, where progress is shown."""
    if _start.get() is not None:
        print(printable(line), file=sys.stderr)


@contextmanager
def step(description: str) -> Iterator[None]:
    """Show that a stage of unknown length runs: a spinner on a terminal, one plain line elsewhere."""
    with _shown(printable(description), None, counted=False):
        yield


@contextmanager
def _shown(description: str, total: int | None, *, counted: bool) -> Iterator[_Task | None]:
    """What shows a loop or stage while it runs; None where nobody asked for it."""
    start = _start.get()
    if start is None:
        yield None
        return
    task = start(description, total, counted)
    complete = False
    try:
        yield task
        complete = True
    finally:
        task.finish(complete=complete)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _LineTask:
    def __init__(self, description: str, total: int | None, counted: bool) -> None:
        self.description, self.total, self.counted = description, total, counted
        self.done = 0
        self.begin = time.monotonic()
        self.due = self.begin + FIRST_LINE_SECONDS
        if not counted:
            print(f"{description} ...", file=sys.stderr, flush=True)

    def advance(self) -> None:
        self.done += 1
        now = time.monotonic()
        # The last item needs no line of its own: `finish` says that all is done.
        if now < self.due or self.done == self.total:
            return
        self.due = now + LINE_SECONDS
        print(f"{self.description}: {self._position(now)}", file=sys.stderr, flush=True)

    def _position(self, now: float) -> str:
        if not self.total or self.done > self.total:
            return f"{self.done}, {_duration(now - self.begin)} so far"
        left = (now - self.begin) / self.done * (self.total - self.done)
        return f"{self.done}/{self.total} ({self.done / self.total:.0%}), {_duration(left)} left"

    def finish(self, *, complete: bool) -> None:
        elapsed = time.monotonic() - self.begin
        if self.counted and complete and elapsed >= FIRST_LINE_SECONDS:
            print(f"{self.description}: done in {_duration(elapsed)}", file=sys.stderr, flush=True)


class _Bars:
    """One rich display for all loops that run at a time; a loop inside a loop is a second bar of the same display."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.running = 0

    def start(self, description: str, total: int | None, counted: bool) -> _Task:
        if self.progress is None:
            self.progress = _new_progress()
            self.progress.start()
        self.running += 1
        return _BarTask(self, self.progress, self.progress.add_task(description, total=total))

    def stop(self, task: TaskID) -> None:
        if self.progress is None:
            return
        self.running -= 1
        if self.running:  # an inner loop: its bar would come back once per outer item
            self.progress.remove_task(task)
            return
        self.progress.stop()
        self.progress = None


def _new_progress() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    return Progress(
        SpinnerColumn("dots" if console.encoding.startswith("utf") else "line"),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
        redirect_stdout=False,  # stdout may be a script's JSON
        redirect_stderr=False,
    )


class _BarTask:
    def __init__(self, bars: _Bars, progress: Progress, task: TaskID) -> None:
        self.bars, self.progress, self.task = bars, progress, task

    def advance(self) -> None:
        self.progress.advance(self.task)

    def finish(self, *, complete: bool) -> None:
        if complete:
            done = self.progress.tasks[self.progress.task_ids.index(self.task)].completed
            self.progress.update(self.task, total=max(done, 1), completed=max(done, 1))
        self.bars.stop(self.task)
