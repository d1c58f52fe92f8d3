"""One process at a time, and no lock that outlives its process."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from qpipe.errors import OutputError
from qpipe.ir.files.lock import held

HOLD = """
import os, sys, time
from pathlib import Path
from qpipe.ir.files.lock import held
with held(Path(sys.argv[1]), "the run"):
    if sys.argv[2] == "fork" and not os.fork():
        time.sleep(600)
    print("held", flush=True)
    time.sleep(600)
"""


def holder(lock: Path, how: str = "alone") -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(lock), how]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_the_second_process_is_refused_until_the_first_is_gone(tmp_path: Path, how: str) -> None:
    lock = tmp_path / ".lock"
    process = holder(lock, how)
    try:
        for _ in range(2):  # being refused must not let go
            with (
                pytest.raises(OutputError, match=f"^the run: process {process.pid} is at work on it"),
                held(lock, "the run"),
            ):
                pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        # A child that lives on has inherited nothing.
        with held(lock, "the run"):
            assert lock.read_text() == f"{os.getpid()}\n"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert os.listdir(tmp_path) == []


def test_a_process_does_not_share_with_itself(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with held(lock, "c.safetensors"):
        with (
            pytest.raises(OutputError, match=f"c.safetensors: process {os.getpid()} is at work on it"),
            held(tmp_path / "." / ".lock", "c.safetensors"),
        ):
            pass
        assert lock.exists()
    assert not lock.exists()


def test_an_error_lets_go(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), held(tmp_path / ".lock", "it"):
            raise KeyboardInterrupt


def test_a_lock_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / ".lock").symlink_to("file")
    with pytest.raises(OutputError, match="can't be written"), held(tmp_path / ".lock", "it"):
        pass
    assert (tmp_path / "file").read_bytes() == b""
