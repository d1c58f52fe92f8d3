"""Write any file so that it is whole or absent: beside, to the disk, then renamed.

A folder that a killed process left is removed by the next one that writes the same file: while its process lives, the
kernel holds a lock on it, and lets it go with the process.
"""

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from safetensors import SafetensorError

from qpipe.errors import OutputError, one_line
from qpipe.ir.files.outputs import target_of

try:
    import fcntl
except ImportError:  # not on Windows, where a killed process leaves its folder
    fcntl = None  # type: ignore[assignment]

_FAILURES = (OSError, SafetensorError)
"""What a full disk is: safetensors has an exception of its own for it."""
_SUFFIX: Final = ".qpipe"
_DRAWN = re.compile(r"[a-z0-9_]{8}")
"""What `tempfile` puts between prefix and suffix."""
_PREFIX_BYTES = 200
"""Of a file's name in its folder's: a name may have 255 bytes, of which the folder needs some more."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write to; what is there afterwards is renamed to `path`, with all that was written beside it.

    The given path has the same file name as `path`, in a temporary folder next to it; of a symbolic link, name and
    folder are its target's. When the block raises, nothing of it is left and an older file stays as it was. `path`
    itself is renamed last, and keeps the mode and, where this user may give it, the owner that it had. A failure to
    write in the block (disk full, no permission) becomes an OutputError that names `path`, so the block should do
    nothing but write.
    """
    target = target_of(path)
    try:
        with _folder_for(target) as folder:
            mode = _ordinary_mode(folder)
            yield folder / target.name
            _move_out(folder, target, mode)
    except _FAILURES as error:
        raise OutputError(f"{os.fspath(path)}: can't be written: {one_line(error)}") from error


@contextmanager
def _folder_for(target: Path) -> Iterator[Path]:
    """A folder beside `target` for as long as the block runs, or this process."""
    prefix = f".{os.fsdecode(os.fsencode(target.name)[:_PREFIX_BYTES])}."
    _sweep(target.parent, prefix)
    lock = None
    while lock is None:
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=_SUFFIX, dir=target.parent))
        lock = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _sweep(parent: Path, prefix: str) -> None:
    """Remove the folders that killed processes left."""
    with suppress(OSError):
        names = [name for name in os.listdir(parent) if name.startswith(prefix) and name.endswith(_SUFFIX)]
        for folder in (parent / name for name in names if _DRAWN.fullmatch(name[len(prefix) : -len(_SUFFIX)])):
            if (lock := _lock(folder, wait=False)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path, *, wait: bool = True) -> int | None:
    """Lock a folder; the descriptor that holds it. None where it is gone, or, without waiting, another one's."""
    if fcntl is None:
        return os.open(os.devnull, os.O_RDONLY) if wait else None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = folder.exists()  # not where it was swept between its making and its lock
    except OSError:
        is_ours = wait  # a file system without locks: nobody sweeps there
    if is_ours:
        return descriptor
    os.close(descriptor)
    return None


def _ordinary_mode(folder: Path) -> int:
    """The mode of a new file: what the user's umask leaves, whatever a library makes of it."""
    probe = folder / "mode"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    return mode


def _move_out(folder: Path, target: Path, mode: int) -> None:
    """Flush every file of `folder` to the disk and rename it into the target's folder, the target last."""
    beside = sorted(file for file in folder.iterdir() if file.name != target.name)
    files = [*beside, folder / target.name]
    for file in files:
        _dress(file, target_of(target.parent / file.name), mode)
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
    for file in files:
        file.replace(target_of(target.parent / file.name))


def _dress(file: Path, older: Path, mode: int) -> None:
    """Give a new file the owner and mode of the one whose place it takes, or the ordinary mode."""
    if older.exists():
        found, made = older.stat(), file.stat()
        mode = stat.S_IMODE(found.st_mode)
        if (found.st_uid, found.st_gid) != (made.st_uid, made.st_gid):
            with suppress(OSError):
                os.chown(file, found.st_uid, found.st_gid)
    file.chmod(mode)
