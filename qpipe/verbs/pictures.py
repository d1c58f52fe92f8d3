"""Pictures that a verb may draw besides what it reports."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from qpipe.errors import OutputError
from qpipe.ir.files.outputs import check_output
from qpipe.verbs.sources import ModelPath

PICTURES: Final = (".png", ".svg")


def check_picture(path: ModelPath | None, sources: Iterable[object]) -> None:
    """OutputError where no picture can be written to `path`; None is none. sources: what the verb reads."""
    if path is not None and Path(path).suffix.lower() not in PICTURES:
        raise OutputError(f"{Path(path)}: a picture, expected the name of a {' or '.join(PICTURES)} file")
    check_output(path, sources=sources)
