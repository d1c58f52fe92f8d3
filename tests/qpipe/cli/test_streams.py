"""Whatever a command's streams are, it does its work, and no name in its output is taken for more than a name."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import qpipe
from qpipe.cli.main import main
from qpipe.cli.output import print_table, say, working
from qpipe.errors import ModelError, printable
from qpipe.progress import step
from support.networks import parse

ROOT = Path(__file__).parents[3]
TRICKY = ("[bold]x", "[/x]", r"\[/b]0", "\x1b[31mred", "two\nlines", "bell\a", "\u202eback", "\udcff", "\x9b1m")
PLAIN = ("[bold]x", "[/x]", r"\[/b]0", r"\x1b[31mred", r"two\nlines", r"bell\x07", r"\u202eback", r"\udcff", r"\x9b1m")

SHOWN = tuple(zip(TRICKY, PLAIN, strict=True))


def command(words: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """A line of the shell, in which `qpipe` is the command."""
    script = f'qpipe() {{ "{sys.executable}" -m qpipe "$@"; }}\nset -o pipefail\n{words}'
    around = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(["bash", "-c", script], cwd=folder, env=around, capture_output=True, check=False)


@pytest.mark.parametrize(("text", "shown"), SHOWN)
def test_what_a_terminal_would_act_on_is_shown(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printable(text) == shown
    say(f"wrote {text}")
    print_table(text, [{"name": text, "size": 1}])
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"wrote {shown}"
    assert out.count(shown) == 3
    assert all(c.isprintable() or c == "\n" for c in out)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("text", "shown"), SHOWN)
def test_messages_show_it_as_well(
    text: str, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def inspect(*_: object, **__: object) -> None:
        with working(), step(text):
            import warnings

            warnings.warn(text, stacklevel=1)
        raise ModelError(f"{text}: no such file")

    monkeypatch.setitem(vars(qpipe), "inspect", inspect)
    assert main(["inspect", "net.onnx"]) == 2
    told = capsys.readouterr().err.splitlines()
    # Of a message the lines are joined: most are another library's.
    joined = printable(" ".join(text.split()))
    assert told == [f"{shown} ...", f"qpipe: warning: {joined}", f"qpipe: error: {joined}: no such file"]


@pytest.fixture
def named(here: Path) -> Path:
    """A network with such names, in a file with such a name."""
    import onnx

    model = parse("(float[N,64] x) => (float[N,8] y) { h = Relu(x) y = Add(h, h) }")
    for node, name in zip(model.graph.node, ("\x1b[1mé\n[/b]", "层"), strict=True):
        node.name = name
    path = here / os.fsdecode(b"n\xff[b].onnx")
    onnx.save_model(model, path)
    return path


@pytest.mark.parametrize(("encoding", "options"), [("ascii", ""), ("cp1252", "--json"), ("utf-8", "")])
def test_an_encoding_that_lacks_a_character(named: Path, encoding: str, options: str) -> None:
    done = command(f"qpipe inspect n[!e]*.onnx {options}", named.parent, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode(encoding)
    assert (r"\u001b" if options else r"\x1b") in shown
    assert ("层" if encoding == "utf-8" else r"\u5c42") in shown


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("qpipe inspect net.onnx <&- >&- 2>&-", 0),
        ("qpipe run absent.toml >&- 2>&-", 2),
        ("qpipe --help >&-", 0),
        ("qpipe --help | true", 1),
        ("qpipe run absent.toml 2>&1 | true", 2),
    ],
)
def test_streams_that_are_closed_or_unread(here: Path, words: str, status: int) -> None:
    done = command(words, here)
    # A reader may have gone only after all was written.
    assert done.returncode == status or (status == 1 and done.returncode == 0)
    assert done.stderr == b""


def test_a_closed_stream_is_no_place_in_a_file(here: Path) -> None:
    """What a library writes to number 1 or 2 would else land in the file that was opened next."""
    done = command("qpipe export net.qdq.onnx -o out.onnx >&- 2>&-", here)
    assert done.returncode == 0
    assert (here / "out.onnx").read_bytes() == (here / "net.int8.onnx").read_bytes()


def test_a_stdout_without_room(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["--version"]) == 2
    assert capsys.readouterr().err == "qpipe: error: stdout: No space left on device\n"


def test_nothing_told_on_stderr_stops_the_work(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    assert main(["calibrate", "net.onnx", "--data", "digits", "--batches", "1", "-o", "out.onnx"]) == 0
    assert (here / "out.onnx").exists()
    assert main(["inspect", "absent.onnx"]) == 2


def test_main_leaves_the_streams_as_they_were(here: Path) -> None:
    before = sys.stdout, sys.stderr, sys.stdout.errors
    main(["inspect", "net.onnx"])
    assert (sys.stdout, sys.stderr, sys.stdout.errors) == before


@pytest.mark.parametrize("columns", [1, 10, 30, 200])
def test_a_narrow_terminal_loses_nothing(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table("t", [{"name": "abcdefgh" * 3, "a": 12345678, "b": 0.125, "c": None}])
    out = capsys.readouterr().out
    for word in ("abcdefgh", "12,345,6", "0.125"):
        assert word in out


@pytest.mark.parametrize("words", [["inspect", "a\0b.onnx"], ["inspect", "net.onnx", "--weights", "\0"]])
def test_a_nul_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.endswith(
        r"\x00" + f"{words[-1].partition(chr(0))[2]}: has a NUL, which no option can hold\n"
    )


@pytest.fixture
def odd(here: Path) -> Callable[[str], str]:
    """A name that is no UTF-8."""
    return lambda name: os.fsdecode(name.encode() + b"\xff.onnx")


def test_names_that_are_no_text(here: Path, odd: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    """Through every command, onnxruntime and the page of a report."""
    (here / "net.onnx").rename(odd("net"))
    for words in (
        f"calibrate {odd('net')} --data digits --batches 1 -o {odd('q')}",
        f"export {odd('q')} -o {odd('e')}",
        f"validate {odd('net')} {odd('q')} {odd('e')} --data digits --limit 64",
        f"bench {odd('e')} --repeats 1 --picture {odd('p')}.svg",
        f"report {odd('q')} {odd('e')} -o {odd('r')}.html",
    ):
        assert main(words.split()) == 0, capsys.readouterr().err
    page = Path(f"{odd('r')}.html").read_text(encoding="utf-8")
    assert r"e\udcff.onnx" in page
