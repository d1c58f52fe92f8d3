"""How large a model is on the disk."""

from __future__ import annotations

import os
from pathlib import Path

from qpipe.ir.files.external import external_files


def file_size(path: str | os.PathLike[str]) -> int:
    """Bytes of an .onnx file, with the files that hold its external data."""
    model = Path(path)
    return sum(file.stat().st_size for file in (model, *external_files(model)))
