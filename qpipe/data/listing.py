"""What lies in a folder of a data set: folders and images, without what is hidden or the system's own.

A link is what it leads to. One that leads to nothing, or back to a folder around it, is refused; so are a pipe or a
device called like an image, and a folder that may not be read: each would change in silence what is trained on.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from qpipe.errors import DataError, one_line

EXTENSIONS = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
SYSTEM_FOLDERS = frozenset({"$RECYCLE.BIN", "@eaDir", "System Volume Information", "__MACOSX", "lost+found"})
"""What operating systems leave in folders, besides names that begin with a dot."""
_KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@dataclass
class Listing:
    """folders and images: paths, sorted. others: how many files of each other extension there are."""

    folders: list[Path] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def list_folder(folder: Path) -> Listing:
    """What is in the folder itself. Raises DataError."""
    found = Listing()
    try:
        with os.scandir(folder) as entries:
            kept = [e for e in entries if not e.name.startswith(".") and e.name not in SYSTEM_FOLDERS]
    except OSError as error:
        raise DataError(f"folder '{folder}' can't be read: {one_line(error)}") from None
    for entry in kept:
        try:
            _add(found, entry)
        except OSError as error:  # such as a link that leads to itself
            raise DataError(f"'{entry.path}' can't be read: {one_line(error)}") from None
    found.folders.sort()
    found.images.sort()
    return found


def list_all(folder: Path) -> Listing:
    """All images in the folder and in those below it; `folders` has these. Raises DataError."""
    found = Listing()
    waiting = [(folder, {identity_of(folder): folder})]
    while waiting:
        current, around = waiting.pop()
        here = list_folder(current)
        found.images += here.images
        found.folders += here.folders
        found.others += here.others
        for child in here.folders:
            identity = identity_of(child)
            if identity in around:
                raise DataError(f"folder '{child}' leads back to '{around[identity]}', expected folders that end")
            waiting.append((child, {**around, identity: child}))
    found.images.sort()
    return found


def identity_of(folder: Path) -> tuple[int, int]:
    """What two names of one folder have in common. Raises DataError."""
    try:
        status = folder.stat()
    except OSError as error:
        raise DataError(f"folder '{folder}' can't be read: {one_line(error)}") from None
    return status.st_dev, status.st_ino


def shown_extensions() -> str:
    """Those of images, as part of a message."""
    return " ".join(sorted(EXTENSIONS))


def _add(found: Listing, entry: os.DirEntry[str]) -> None:
    extension = os.path.splitext(entry.name)[1].lower()
    if entry.is_dir():
        found.folders.append(Path(entry.path))
    elif entry.is_file():
        if extension in EXTENSIONS:
            found.images.append(entry.path)
        else:
            found.others[extension] += 1
    elif entry.is_symlink() and not os.path.exists(entry.path):
        raise DataError(f"'{entry.path}' is a link that leads to nothing, expected a folder or a file")
    elif extension in EXTENSIONS:
        kind = _KINDS.get(stat.S_IFMT(entry.stat().st_mode), "no file")
        raise DataError(f"image '{entry.path}' is {kind}, expected a file")
