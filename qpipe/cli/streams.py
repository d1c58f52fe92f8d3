"""stdout and stderr that no message can fail on: closed, of another encoding, or with a reader that went away."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_STANDARD = 2
"""The last of the file descriptors that are standard streams."""


@contextmanager
def steady_streams() -> Iterator[None]:
    """Let everything be printed inside the block, on whatever streams the process was given.

    What their encoding lacks is written as an escape. A closed one is a null device, also for the libraries that write
    to its number, which else would be the next file's. Nothing that is told on stderr stops the work.
    """
    _fill_standard_descriptors()
    kept = sys.stdout, sys.stderr
    out, err = (open(os.devnull, "w") if stream is None else stream for stream in kept)  # noqa: SIM115
    errors = [(stream, stream.errors) for stream in (out, err) if isinstance(stream, io.TextIOWrapper)]
    _reconfigure((stream, "backslashreplace") for stream, _ in errors)
    sys.stdout, sys.stderr = out, Lenient(err)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = kept
        _reconfigure(errors)


def drop_stdout() -> None:
    """Forget what is left in the buffer of a stdout that can't be written: it must not fail once more at exit."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


class Lenient:
    """A stream to tell things on, which is silent where nobody listens any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As of the stream."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As of the stream."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _fill_standard_descriptors() -> None:
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _reconfigure(streams: Any) -> None:
    for stream, errors in streams:
        # Of one that is broken, which its next write will say.
        with suppress(OSError, ValueError):
            stream.reconfigure(errors=errors)
