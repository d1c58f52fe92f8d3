"""One process at a time: a lock on a file beside what is being worked on.

The kernel holds the lock, and lets it go with its process, so none is ever left behind; the file that stands for it is
taken up, and removed, by whoever comes next. Record locks, not flock: a forked worker that outlives its parent for a
moment does not inherit them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qpipe.errors import OutputError, one_line

try:
    import fcntl
except ImportError:  # not on Windows, where two processes are not told apart
    fcntl = None  # type: ignore[assignment]

_held: set[Path] = set()
"""Of this process, to which the kernel gives a lock twice."""


@contextmanager
def held(lock: Path, what: str) -> Iterator[None]:
    """Hold the lock file `lock` for the block.

    Raises OutputError, which says that `what` is another process's, where one holds it.
    """
    lock = lock.parent.resolve() / lock.name
    descriptor = _take(lock, what)
    _held.add(lock)
    try:
        yield
    finally:
        _held.discard(lock)
        # Removed while it is still held, so that it is nobody else's.
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _take(lock: Path, what: str) -> int:
    """The descriptor of the locked file, which says whose it is."""
    while True:
        # Not opened where this process has it: closing the file would let the lock go.
        if lock in _held:
            raise _taken(what, str(os.getpid()))
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise OutputError(f"{lock}: can't be written: {one_line(error)}") from error
        try:
            if fcntl is not None:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise _taken(what, holder) from None
        except OSError:
            pass  # a file system without locks
        if _is_at(descriptor, lock):
            break
        # Its last holder removed it in between.
        os.close(descriptor)
    # A full disk must not be in the way: the lock holds without the number.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _taken(what: str, holder: str) -> OutputError:
    process = f"process {holder}" if holder.isdigit() else "another process"
    return OutputError(f"{what}: {process} is at work on it, expected one at a time")
