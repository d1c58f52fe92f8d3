"""A folder with one small network at every stage, made once."""

import shutil
from pathlib import Path

import onnx
import pytest

import qpipe
from support.zoo.digits import PREPROCESS, digits_model


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx -> net.qdq.onnx -> tuned.qdq.onnx -> net.int8.onnx, for the digits; nobody writes here."""
    folder = tmp_path_factory.mktemp("stages")
    onnx.save_model(digits_model(), folder / "net.onnx")
    qpipe.calibrate(folder / "net.onnx", "digits", folder / "net.qdq.onnx", preprocess=PREPROCESS, batches=2)
    training = {"lr": 0.05, "batch_size": 32, "epochs": 3, "flip": False, "evaluate": False}
    qpipe.finetune(folder / "net.qdq.onnx", "digits", folder / "tuned.qdq.onnx", **training)
    qpipe.export(folder / "tuned.qdq.onnx", folder / "net.int8.onnx")
    return folder


@pytest.fixture
def workshop(stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of these files as the current folder."""
    for file in stages.glob("*.onnx"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
