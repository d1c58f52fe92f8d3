"""One damaged input and the commands that meet it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol


@dataclass(frozen=True)
class Command:
    """Words after `qpipe`, and what they may write: files of the folder, or folders with all that is in them.

    specification: the QDQ file that an export, the output, is compared with. consistent: `validate` must find no
    difference, since qpipe itself made the files from one another.
    """

    words: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    specification: str | None = None
    consistent: bool = False


@dataclass
class Case:
    """Commands in order; each is run where all before it have succeeded, or in any case."""

    what: str
    commands: Sequence[Command]
    independent: bool = False


class Damage(Protocol):
    """Writes a case's files into `folder`, from healthy ones in `seeds`. Equal draws give equal files."""

    def __call__(self, rng: Random, seeds: Path, folder: Path) -> Case: ...
