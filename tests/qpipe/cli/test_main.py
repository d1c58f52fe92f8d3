import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import qpipe
from qpipe.cli.main import COMMANDS, main
from qpipe.errors import DataError, ModelError, ParityError

ROOT = Path(__file__).parents[3]
INSPECT = ["inspect", "net.onnx"]
# Half a second on a machine where loading typer and pydantic takes a fifth. A first try has cold caches.
TIMES_LIBRARIES = 4.0
TRIES = 3


def raising(error: BaseException) -> Callable[..., None]:
    def verb(*_: object, **__: object) -> None:
        raise error

    return verb


def error_line(captured: str) -> str:
    """The one line on stderr, without its prefix."""
    assert captured.endswith("\n")
    assert captured.count("\n") == 1
    assert captured.startswith("qpipe: error: ")
    return captured.removeprefix("qpipe: error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ModelError("net.onnx: truncated"), 2, "net.onnx: truncated"),
        (DataError("two\n  lines"), 2, "two lines"),
        (ParityError("Conv 'c1' differs"), 1, "Conv 'c1' differs"),
        (OSError(28, "No space left on device", "out.onnx"), 2, "out.onnx: No space left on device"),
        (OSError("no number"), 2, "no number"),
        (MemoryError(), 2, "out of memory; a smaller --batch-size needs less"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
@pytest.mark.parametrize("words", [INSPECT, [*INSPECT, "--json"]], ids=["people", "json"])
def test_an_error_is_one_line_and_a_status(
    error: BaseException,
    status: int,
    message: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(vars(qpipe), "inspect", raising(error))
    assert main(words) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert error_line(captured.err) == message


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(qpipe), "inspect", raising(ZeroDivisionError("a defect")))
    with pytest.raises(ZeroDivisionError, match="a defect"):
        main(INSPECT)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect"], "Missing argument 'MODEL'. (see qpipe inspect --help)"),
        (["calibrate", "m.onnx", "-o", "o"], "Missing option '--data'. (see qpipe calibrate --help)"),
        (["inspect", "m.onnx", "--nope"], "No such option: --nope (see qpipe inspect --help)"),
        (["inspct"], "No such command 'inspct'."),
        (["calibrate", "m", "--data", "d", "-o", "o", "--batches", "0"], "--batches: 0, expected greater than"),
        (["calibrate", "m", "--data", "d", "-o", "o", "--cpu", "arm"], "Invalid value for '--cpu': "),
        (["run", "absent.toml"], "absent.toml: cannot be read (No such file or directory), expected a recipe"),
        (["run", ""], ".: is a directory, expected a recipe"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert error_line(capsys.readouterr().err).startswith(message)


@pytest.mark.parametrize("command", [command.__name__ for command in COMMANDS])
def test_every_command_has_help_with_an_example_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Example:\n    qpipe {command}" in out
    assert "--json" in out


def test_the_commands_are_those_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in (
        "inspect",
        "calibrate",
        "adopt",
        "finetune",
        "export",
        "validate",
        "bench",
        "energy",
        "report",
        "run",
        "demo",
    ):
        assert f"\n  {name} " in out
    assert "..." not in out.partition("Commands:")[2], (
        "a summary is cut; shorten the first line of the command's docstring"
    )


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Usage: qpipe" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"qpipe {qpipe.__version__}\n"


def test_help_takes_little_more_than_loading_what_it_needs() -> None:
    libraries, help_ = [], []
    for _ in range(TRIES):
        libraries.append(cpu_seconds("-c", "import typer.main, pydantic"))
        help_.append(cpu_seconds("-m", "qpipe", "--help"))
    assert min(help_) < TIMES_LIBRARIES * min(libraries)


def cpu_seconds(*words: str) -> float:
    """Of a Python that does this: what else a machine does meanwhile is not ours."""
    before = os.times()
    subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=ROOT)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_the_module_is_the_command(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "qpipe", "run", "absent.toml", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert error_line(done.stderr).startswith("absent.toml: ")


def test_a_reader_that_went_away_is_no_traceback() -> None:
    pipe = f"{sys.executable} -m qpipe --help | true"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "Traceback" not in done.stderr
