import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from qpipe import progress


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock.monotonic)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_silent_without_reporting(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    for _ in progress.track(range(3), "loop"):
        clock.now += 100
    with progress.step("stage"):
        clock.now += 100
    assert capsys.readouterr() == ("", "")


def test_plain_lines_are_five_seconds_apart_and_estimate_the_rest(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    with progress.reporting():
        assert sum(1 for _ in _ticking(progress.track([0] * 48, "calibrate"), clock, 0.25)) == 48
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "calibrate: 4/48 (8%), 0:11 left",
        "calibrate: 24/48 (50%), 0:06 left",
        "calibrate: 44/48 (92%), 0:01 left",
        "calibrate: done in 0:12",
    ]


def test_quick_loops_leave_no_line(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    with progress.reporting():
        list(_ticking(progress.track([0] * 9, "quick"), clock, 0.1))
    assert capsys.readouterr().err == ""


def test_unknown_total_counts_without_an_estimate(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    with progress.reporting():
        list(_ticking(progress.track(iter([0] * 2), "stream"), clock, 4000))
    assert capsys.readouterr().err.splitlines() == [
        "stream: 1, 1:06:40 so far",
        "stream: 2, 2:13:20 so far",
        "stream: done in 2:13:20",
    ]


def test_total_that_is_too_small_gives_no_negative_estimate(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    with progress.reporting():
        list(_ticking(progress.track(iter([0] * 3), "loop", total=1), clock, 10))
    assert "loop: 2, 0:20 so far" in capsys.readouterr().err


def test_interrupted_loop_does_not_say_done(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    with progress.reporting():
        for _ in progress.track(range(9), "loop"):
            clock.now += 10
            break
    assert capsys.readouterr().err == ""


def test_step_prints_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.reporting(), progress.step("load model"):
        pass
    assert capsys.readouterr() == ("", "load model ...\n")


def test_bars_on_a_terminal_go_to_stderr_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.reporting():
        for _ in progress.track(range(2), "outer [x]"):
            for _ in progress.track(iter(range(3)), "inner"):
                print("json")
            with progress.step("stage"):
                pass
    assert capsys.readouterr().out == "json\n" * 6
    shown = terminal.getvalue()
    assert "outer [x]" in shown
    assert "2/2" in shown


def test_exception_in_a_terminal_loop_stops_the_display(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.reporting():
        with pytest.raises(ZeroDivisionError), progress.step("stage"):
            raise ZeroDivisionError
        assert list(progress.track([1], "again")) == [1]
    assert "again" in terminal.getvalue()


@dataclass(frozen=True)
class Note:
    text: str

    def line(self) -> str:
        return f"found {self.text}"


def test_what_is_told_is_shown_once_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    progress.tell(Note("silence"))
    with progress.reporting() as told:
        for text in ("a", "b", "a"):
            progress.tell(Note(text))
    assert told == [Note("a"), Note("b")]
    assert capsys.readouterr() == ("", "found a\nfound b\n")


def test_import_needs_no_rich() -> None:
    code = "import sys, qpipe.progress; assert not {'rich', 'torch', 'numpy'} & set(sys.modules), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def _ticking(items: Iterator[int], clock: Clock, seconds: float) -> Iterator[int]:
    for item in items:
        clock.now += seconds
        yield item
