"""Signals that end a command end it as Ctrl-C does: what is half-written goes, children go, one line says so."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final

_WORDS: Final = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}
"""Those that end a command, as far as a system has them, and how it says so."""
GRACE: Final = 2.0
"""Seconds in which further signals change nothing: `timeout` sends its signal to a process and then to its group."""


class _SignalError(KeyboardInterrupt):
    """Of a class of its own: CPython itself ends by SIGINT where it saw a plain one in `exec`, caught or not."""


@dataclass
class Ending:
    """What ends a command: the number of a signal, 0 while there was none. since: the time of it."""

    number: int = 0
    since: float = 0.0

    @property
    def status(self) -> int:
        """The exit status, as shells have it."""
        return 128 + (self.number or signal.SIGINT)

    @property
    def word(self) -> str:
        """Such as "terminated"."""
        return _WORDS[signal.Signals(self.number or signal.SIGINT).name]

    def catch(self, number: int, _: FrameType | None) -> None:
        """Raise KeyboardInterrupt at the first signal; one that comes long after it ends the process at once."""
        now = time.monotonic()
        if not self.number:
            self.number, self.since = number, now
            raise _SignalError
        if now - self.since > GRACE:
            os._exit(128 + number)


@contextmanager
def ending() -> Iterator[Ending]:
    """Raise KeyboardInterrupt for these signals inside the block, but for those that this process was to ignore."""
    found = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    numbers = [getattr(signal, name) for name in _WORDS if hasattr(signal, name)]
    older = {number: signal.getsignal(number) for number in numbers}
    heeded = [number for number, handler in older.items() if handler is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, found.catch)
    try:
        yield found
    finally:
        for number in heeded:
            signal.signal(number, older[number])
