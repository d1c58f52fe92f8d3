"""A signal ends a command in one line, and nothing half-written or running is left of it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import qpipe
from qpipe.cli.main import main
from qpipe.cli.signals import Ending, ending

ROOT = Path(__file__).parents[3]
SECONDS = 60
"""What a busy machine may take for what takes a moment."""

WAIT = """
import os, sys, time
import qpipe
from qpipe.cli.main import main
from qpipe.ir.files.write import atomic_path
def inspect(*_, **__):
    with atomic_path("out.onnx") as temporary:
        temporary.write_text("half")
        # As a dataclass is made.
        exec("os.write(1, b'ready\\\\n'); time.sleep(60)", {"os": os, "time": time})
vars(qpipe)["inspect"] = inspect
sys.exit(main(["inspect", "net.onnx"]))
"""


def heed(*ignored: str) -> None:
    """In a new process: who runs the tests may have let some be ignored, as a shell does for what it leaves behind."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN if name in ignored else signal.SIG_DFL)


_running: "list[subprocess.Popen[str]]" = []
_groups: dict[int, int] = {}
"""Of those that were started alone: the group, in which their children are."""


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """What a failed test leaves running is ended."""
    yield
    while _running:
        process = _running.pop()
        process.kill()
        if os.getpgid(0) != (group := _groups.pop(process.pid, os.getpgid(0))):
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        process.communicate()


def started(
    folder: Path, code: str = WAIT, *, ignored: tuple[str, ...] = (), alone: bool = False
) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=alone, preexec_fn=lambda: heed(*ignored),
    )  # fmt: skip
    _running.append(process)
    if alone:
        _groups[process.pid] = process.pid
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "word"), [("SIGINT", "interrupted"), ("SIGTERM", "terminated"), ("SIGHUP", "hung up")]
)
def test_a_signal_is_one_line_and_a_status(tmp_path: Path, number: str, word: str) -> None:
    """Also where it comes twice, as `timeout` sends it."""
    process = started(tmp_path)
    for _ in range(2):
        process.send_signal(getattr(signal, number))
    _, told = process.communicate(timeout=SECONDS)
    assert (process.returncode, told) == (128 + getattr(signal, number), f"qpipe: error: {word}\n")
    assert os.listdir(tmp_path) == []


def test_a_signal_that_is_to_be_ignored_is(tmp_path: Path) -> None:
    """As `nohup` asks for it."""
    process = started(tmp_path, ignored=("SIGHUP",))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=SECONDS)[1] == "qpipe: error: terminated\n"


LONG_CALL = """
import hashlib, os, sys
import qpipe
from qpipe.cli import signals
from qpipe.cli.main import main
signals.GRACE = 0.2
def inspect(*_, **__):
    os.write(1, b"ready\\n")
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # a call that no handler interrupts
vars(qpipe)["inspect"] = inspect
sys.exit(main(["inspect", "net.onnx"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_long_call_of_a_library(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path, LONG_CALL)
    time.sleep(0.3)  # into the call
    process.send_signal(number)
    word = "terminated" if number is signal.SIGTERM else "interrupted"
    assert process.communicate(timeout=SECONDS)[1] == f"qpipe: error: {word}\n"
    assert process.returncode == 128 + number


def test_the_first_signal_alone_is_raised() -> None:
    end = Ending()
    with pytest.raises(KeyboardInterrupt):
        end.catch(signal.SIGTERM, None)
    try:
        end.catch(signal.SIGINT, None)
    except KeyboardInterrupt:
        pytest.fail("raised while the first one is dealt with")
    assert (end.status, end.word) == (143, "terminated")


def test_handlers_are_those_of_before_and_a_thread_has_none() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ending():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(main(["--version"])))
    thread.start()
    thread.join()
    assert found == [0]


def test_an_error_that_a_signal_led_to_is_not_the_news(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def inspect(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise qpipe.DataError("a worker was killed") from None

    monkeypatch.setitem(vars(qpipe), "inspect", inspect)
    assert main(["inspect", "net.onnx"]) == 143
    assert capsys.readouterr().err == "qpipe: error: terminated\n"


READ = """
import os, sys, time
import numpy as np
import qpipe
from qpipe.cli.main import main
from qpipe.data.reading import ReaderStore
class Slow:
    def __len__(self):
        return 10_000
    def name(self, index):
        return str(index)
    def read(self, index):
        time.sleep(0.002)
        return np.zeros((2, 2, 1), np.uint8)
def inspect(*_, **__):
    store = ReaderStore(Slow(), workers=3)
    for number, _ in enumerate(store.gather(np.split(np.arange(10_000), 1000))):
        if number == 1:
            os.write(1, b"ready\\n")
vars(qpipe)["inspect"] = inspect
sys.exit(main(["inspect", "net.onnx"]))
"""


def to_process(process: "subprocess.Popen[str]", number: int) -> None:
    process.send_signal(number)


def to_group(process: "subprocess.Popen[str]", number: int) -> None:
    os.killpg(process.pid, number)


@pytest.mark.parametrize("send", [to_process, to_group])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_the_process_that_reads(
    tmp_path: Path, number: signal.Signals, send: Callable[["subprocess.Popen[str]", int], None]
) -> None:
    process = started(tmp_path, READ, alone=True)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 3
    send(process, number)
    _, alive = psutil.wait_procs(workers, timeout=SECONDS)
    assert alive == []
    _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == (-9 if number is signal.SIGKILL else 128 + number)
    assert "Traceback" not in told
    assert told.count("\n") == (0 if number is signal.SIGKILL else 1)


def test_the_process_that_measures_memory_ends_as_well(tmp_path: Path) -> None:
    code = """
import os, subprocess, sys, time
child = "import os, sys, time; from qpipe.processes import end_with_parent; end_with_parent(int(sys.argv[1])); "
subprocess.Popen([sys.executable, "-c", child + "print('ready', flush=True); time.sleep(60)", str(os.getpid())])
time.sleep(60)
"""
    process = started(tmp_path, code)
    (child,) = psutil.Process(process.pid).children()
    process.kill()
    process.communicate(timeout=SECONDS)
    assert psutil.wait_procs([child], timeout=SECONDS)[1] == []
