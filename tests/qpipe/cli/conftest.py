"""The small network's files, for commands that really run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import qpipe
from qpipe.cli.main import main
from support.zoo.digits import digits_model


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.onnx, net.qdq.onnx and net.int8.onnx, for the digits; nobody writes here."""
    folder = tmp_path_factory.mktemp("files")
    onnx.save_model(digits_model(), folder / "net.onnx")
    qpipe.calibrate(folder / "net.onnx", "digits", folder / "net.qdq.onnx", batches=1)
    qpipe.export(folder / "net.qdq.onnx", folder / "net.int8.onnx")
    return folder


@pytest.fixture
def here(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the small network at every stage."""
    for file in files.glob("*.onnx"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Run a command that must fail; its one line, after a look at what it left behind."""

    def run(words: str) -> str:
        before = sorted(path.relative_to(here) for path in here.rglob("*"))
        assert main(words.split()) == 2
        captured = capsys.readouterr()
        assert sorted(path.relative_to(here) for path in here.rglob("*")) == before, "something was left behind"
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert [line for line in lines if line.startswith("qpipe: error: ")] == lines[-1:]
        assert "Traceback" not in captured.err
        return lines[-1].removeprefix("qpipe: error: ")

    return run
