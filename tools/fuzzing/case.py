"""One damaged input and the commands that meet it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol


@dataclass(frozen=True)
class Command:
    """Words after `qpipe`, and what they may write: files of the folder, or folders with all that is in them.

    compared: exports, with the QDQ file that each is compared with. calibrated: the float network and the data, where
    the output may not be noise unless a warning says so. consistent: `validate` must find no
    difference, since qpipe itself made the files from one another.
    """

    words: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    compared: Mapping[str, str] = field(default_factory=dict)
    calibrated: tuple[str, str] | None = None
    consistent: bool = False


@dataclass
class Case:
    """Commands in order; each is run where all before it have succeeded, or in any case."""

    what: str
    commands: Sequence[Command]
    independent: bool = False


class Damage(Protocol):
    """Writes a case's files into `folder`, from healthy ones in `seeds`. Equal draws give equal files."""

    def __call__(self, rng: Random, seeds: Path, folder: Path) -> Case:
        """The commands that meet the files."""
