"""Commands of qpipe in forks of a process that has the libraries loaded: what takes time in them is their work."""

import os
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir, suppress
from pathlib import Path
from typing import Final

import psutil

ORPHANS: Final = 10
"""Seconds after which a process that outlives the one that started it is an orphan."""


class Process:
    """A command that runs in a fork, in a session of its own; what it tells on stderr is kept."""

    def __init__(self, words: str, folder: Path, limit: int | None = None) -> None:
        self.status: int | None = None
        self.told = b""
        self._out, write = os.pipe()
        os.set_blocking(self._out, False)
        self.number = fork(lambda: _become(words, folder, write, limit))
        os.close(write)

    def wait(self, seconds: float) -> bool:
        """Whether it ended within so many seconds."""
        until = time.monotonic() + seconds
        while self.status is None and (left := until - time.monotonic()) > 0:
            if select.select([self._out], [], [], min(left, 0.02))[0]:
                self._read()
            number, status = os.waitpid(self.number, os.WNOHANG)
            if number:
                self.status = os.waitstatus_to_exitcode(status)
                self._read()
                os.close(self._out)
        return self.status is not None

    def signal(self, number: int) -> None:
        """Send it a signal, alone."""
        if self.status is None:
            os.kill(self.number, number)

    def orphans(self) -> int:
        """How many of its session are there some seconds after it is gone; they are ended then."""
        until = time.monotonic() + ORPHANS
        while (found := list(_session(self.number))) and time.monotonic() < until:
            time.sleep(0.05)
        for process in found:
            process.kill()
        return len(found)

    def _read(self) -> None:
        try:
            while part := os.read(self._out, 1 << 16):
                self.told += part
        except BlockingIOError:
            pass


def fork(work: Callable[[], int | None], *, failed: int = 1) -> int:
    """The number of a child that does the work and ends with its status, or with `failed` where it raises."""
    sys.stdout.flush()
    sys.stderr.flush()
    number = os.fork()
    if number:
        return number
    status = failed
    try:
        status = work() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def stand_alone() -> None:
    """In a child: a session of its own, and signals as a new process has them."""
    os.setsid()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)


def _become(words: str, folder: Path, write: int, limit: int | None) -> int:
    """In the fork: be the command; its status."""
    stand_alone()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(write, 2)
    # Those of whoever forks may be others, such as pytest's; so may the warnings that are errors.
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    warnings.resetwarnings()
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    from qpipe.cli.main import main

    with chdir(folder):
        return main(words.split())


def _session(number: int) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == number and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue


def in_fork(work: Callable[[], None]) -> None:
    """Do it in a process of its own, so that this one stays as it can be forked: without threads."""
    if os.waitpid(fork(work), 0)[1]:
        raise SystemExit("the inputs could not be made")
