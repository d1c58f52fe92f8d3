"""Where a file may be written: refused before any work is whatever would be lost or can't be."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from qpipe.errors import OutputError, one_line

_KINDS: Final[tuple[tuple[Callable[[int], bool], str], ...]] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)
_NEVER_DATA: Final = (".onnx", ".html")
"""Suffixes of what we write, and no image or array has: they may lie in a folder of data, and be written again."""


def kind_of_file(mode: int) -> str:
    """What is no regular file, in words, by its `st_mode`."""
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), "a device")


def target_of(path: str | os.PathLike[str]) -> Path:
    """The file that is written for `path`, links followed; OutputError, in one line, where none can be.

    What is there already must be a regular file: a device, a FIFO, a socket would be replaced by one.
    """
    named = Path(path)
    try:
        mode = named.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG  # nothing, or a link to nothing
    except (OSError, ValueError) as error:  # links in a circle, a name that is too long, NUL in it
        raise OutputError(f"{named}: can't be written: {one_line(error)}") from error
    if not stat.S_ISREG(mode):
        raise OutputError(f"{named}: is {kind_of_file(mode)}, expected the name of a file to write")
    target = Path(os.path.realpath(named))
    parent = target.parent if named.is_symlink() else named.parent
    if not parent.is_dir():
        raise OutputError(f"{named}: the folder '{parent}' does not exist")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{named}: can't be written: no permission in '{parent}'")
    return target


def check_output(path: str | os.PathLike[str] | None, *, sources: Iterable[object] = ()) -> None:
    """OutputError where a file can't be written to `path`, as far as can be told before; None is no file.

    sources: what the command reads; those that are paths must stay, with the weights beside a model, and what lies in
    a folder of data.
    """
    if path is None:
        return
    target = target_of(path)
    if not target.exists():
        return
    for source in (Path(source) for source in sources if isinstance(source, str | os.PathLike)):
        if any(is_same_file(target, file) for file in files_of(source)):
            raise OutputError(f"{os.fspath(path)}: is the input and the output, expected two files")
        inside = source.is_dir() and target.is_relative_to(source.resolve())
        if inside and target.suffix.lower() not in _NEVER_DATA:
            raise OutputError(f"{os.fspath(path)}: is there already, in the folder '{source}' that is read")


def check_outputs_differ(first: str | os.PathLike[str], second: str | os.PathLike[str], what: str) -> None:
    """OutputError where both are one file; `what` both are, as "the output and the checkpoint"."""
    if target_of(first) == target_of(second) or is_same_file(first, second):
        raise OutputError(f"{os.fspath(first)}: is {what}, expected two files")


def files_of(source: Path) -> Iterator[Path]:
    """What is read with a file: itself, and the files of weights that an `.onnx` names."""
    yield source
    if source.suffix == ".onnx" and source.is_file():
        # Not before it is asked: onnx is loaded for it.
        from qpipe.ir.files.external import external_files

        yield from external_files(source)


def is_same_file(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> bool:
    """Whether both names are there and lead to one file, through whatever links."""
    try:
        return os.path.samefile(first, second)
    except (OSError, ValueError):
        return False
