"""TOML files of the user's: read whole or refused in one line, and their keys in messages."""

import stat
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from qpipe.errors import RecipeError, one_line

LARGEST: Final = 1 << 20
"""Bytes of a file at most; a recipe that says everything has some thousands."""
MOST_DOTS: Final = 200
"""Dots in a line at most, in keys and numbers."""


def read_toml(path: Path, expected: str) -> dict[str, Any]:
    """The content; RecipeError where the file can't be read, or is no TOML. expected: in words, such as "a recipe"."""
    text = _read(path, expected)
    for number, line in enumerate(text.splitlines(), 1):
        # The time that a dotted key takes grows with the square of its length: minutes for 50,000 dots.
        if (dots := line.partition("#")[0].count(".")) > MOST_DOTS:
            raise RecipeError(f"{path}: line {number} has {dots:,} dots, expected keys of one or two parts")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # integers of thousands of digits, and nesting, are no TOML errors
        raise RecipeError(f"{path}: not valid TOML: {one_line(error)}") from error


@contextmanager
def about_file(path: str | Path) -> Iterator[None]:
    """Let a RecipeError, which whoever reads a value may raise later as well, name the file that it is from."""
    try:
        yield
    except RecipeError as error:
        # As messages call it: an empty path is ".".
        name = Path(path)
        if str(error).startswith(f"{name}: "):
            raise
        raise RecipeError(f"{name}: {error}") from error


def toml_key(location: Sequence[int | str]) -> str:
    """A key as it stands in the file: `[calibrate] batches`, or `seed` at the top."""
    # pydantic says "[key]" behind a key that is itself what is wrong.
    *tables, last = [part for part in location if isinstance(part, str) and part != "[key]"]
    return f"[{'.'.join(tables)}] {last}" if tables else last


def _read(path: Path, expected: str) -> str:
    """The file's text. Raises RecipeError; a pipe or a device is not even opened, since it may never end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise RecipeError(f"{path}: is {'a directory' if path.is_dir() else 'no file'}, expected {expected}")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        raise RecipeError(f"{path}: cannot be read ({one_line(error)}), expected {expected}") from error
    if len(content) > LARGEST:
        raise RecipeError(f"{path}: has more than {LARGEST:,} bytes, expected {expected}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: byte {error.start} is not UTF-8, expected a TOML file") from error
