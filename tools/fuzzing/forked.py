"""Run functions in forked children, each within limits of time and memory, several side by side.

The parent has one thread and has imported what the children need, so that a child starts within milliseconds.
"""

import contextlib
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import psutil
from forked import fork, stand_alone

BYTES: Final = 4 << 30
FILE_BYTES: Final = 1 << 30
"""The largest file that a child may write: a damaged size must not fill the disk."""


_OF_THE_TOOL: Final = 70
"""The status of a child that failed by itself."""
PATIENCE: Final = 4
"""How many times its seconds a child may last that doesn't use them."""


@dataclass(frozen=True)
class Ended:
    """A child that is gone: its number, wait status, seconds of computing and largest resident memory.

    slow: it was killed at its limit of time. orphans: whether processes of its session were left, which are killed.
    """

    number: int
    status: int
    seconds: float
    peak: int
    slow: bool
    orphans: bool

    @property
    def signal(self) -> int | None:
        """What killed it, if anything did."""
        return os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else None


@dataclass(frozen=True)
class _Child:
    number: int
    process: int
    begun: float


def run_forked(
    numbers: Iterable[int], work: Callable[[int], None], *, seconds: float, jobs: int = 1
) -> Iterator[Ended]:
    """Call `work` for each number in a child of its own; yield each as it ends."""
    running: dict[int, _Child] = {}
    try:
        yield from _run(iter(numbers), work, running, seconds, jobs)
    finally:
        for child in running.values():
            _finish(child, late=True)


def _run(
    waiting: Iterator[int], work: Callable[[int], None], running: dict[int, _Child], seconds: float, jobs: int
) -> Iterator[Ended]:
    poll = select.poll()
    while True:
        while len(running) < jobs and (number := next(waiting, None)) is not None:
            child = _Child(number, _fork(work, number), time.monotonic())
            handle = os.pidfd_open(child.process)
            poll.register(handle, select.POLLIN)
            running[handle] = child
        if not running:
            return
        ready = {handle for handle, _ in poll.poll(100)}
        for handle, child in list(running.items()):
            late = _is_late(child, seconds)
            if handle in ready or late:
                poll.unregister(handle)
                os.close(handle)
                del running[handle]
                yield _finish(child, late=late and handle not in ready)


def _is_late(child: _Child, seconds: float) -> bool:
    """Whether it has computed for longer, or waited for several times as long: others may want the processor too."""
    waited = time.monotonic() - child.begun
    if waited <= seconds:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        times = psutil.Process(child.process).cpu_times()
        return waited > PATIENCE * seconds or times.user + times.system > seconds
    return False


def _fork(work: Callable[[int], None], number: int) -> int:
    def child() -> None:
        stand_alone()
        _limit()
        work(number)

    return fork(child, failed=_OF_THE_TOOL)


def _limit() -> None:
    """Memory beyond what the parent has mapped, sizes of files, and no core dumps."""
    with open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + BYTES, mapped + BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _finish(child: _Child, *, late: bool) -> Ended:
    if late:
        os.killpg(child.process, signal.SIGKILL)
    _, status, usage = os.wait4(child.process, 0)
    seconds = usage.ru_utime + usage.ru_stime
    orphans = False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.process, signal.SIGKILL)
        orphans = not late
    return Ended(child.number, status, seconds, usage.ru_maxrss * 1024, late, orphans)
