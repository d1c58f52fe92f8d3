"""Signals that end a command end it as Ctrl-C does: what is half-written goes, children go, one line says so."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final

_WORDS: Final = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}
"""Those that end a command, as far as a system has them, and how it says so."""
GRACE: Final = 5.0
"""Seconds that a command has to end in, before it is ended where it stands."""


class _SignalError(KeyboardInterrupt):
    """Of a class of its own: CPython itself ends by SIGINT where it saw a plain one in `exec`, caught or not."""


@dataclass
class Ending:
    """What ends a command: the number of a signal, 0 while there was none."""

    number: int = 0

    @property
    def status(self) -> int:
        """The exit status, as shells have it."""
        return 128 + (self.number or signal.SIGINT)

    @property
    def word(self) -> str:
        """Such as "terminated"."""
        return _WORDS[signal.Signals(self.number or signal.SIGINT).name]

    def catch(self, number: int, _: FrameType | None) -> None:
        """Raise KeyboardInterrupt at the first signal; `timeout` sends it to a process, and then to its group."""
        if not self.number:
            self.number = number
            raise _SignalError


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
    with _watched(heeded):
        for number in heeded:
            signal.signal(number, found.catch)
        try:
            yield found
        finally:
            for number in heeded:
                signal.signal(number, older[number])


@contextmanager
def _watched(numbers: Sequence[int]) -> Iterator[None]:
    """End the process some seconds after one of these signals, where the block lasts longer: a call of a library can
    take minutes, and no handler runs before it is over.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    over = threading.Event()

    def watch() -> None:
        while (number := os.read(read, 1)[0]) not in numbers:
            if number == 0:
                return
        if not over.wait(GRACE):
            end = Ending(number)
            os.write(2, f"qpipe: error: {end.word}\n".encode())
            os._exit(end.status)

    older = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, daemon=True, name="watches for signals")
    thread.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(older)
        os.write(write, b"\0")
        thread.join()
        os.close(read)
        os.close(write)
