"""The small network's files, for commands that really run."""

from pathlib import Path

import onnx
import pytest
from digits_model import digits_model

import qpipe


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.onnx, net.qdq.onnx and net.int8.onnx, for the digits; nobody writes here."""
    folder = tmp_path_factory.mktemp("files")
    onnx.save_model(digits_model(), folder / "net.onnx")
    qpipe.calibrate(folder / "net.onnx", "digits", folder / "net.qdq.onnx", batches=1)
    qpipe.export(folder / "net.qdq.onnx", folder / "net.int8.onnx")
    return folder
