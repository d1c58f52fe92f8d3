"""Files are whole or absent, wherever they are written, and whatever stops it."""

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from qpipe.errors import DataError, OutputError
from qpipe.ir.files.write import atomic_path


@pytest.fixture
def umask() -> Iterator[None]:
    older = os.umask(0o027)
    yield
    os.umask(older)


def write(path: Path, content: str = "new") -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(content)


def test_atomic_path_keeps_name_and_replaces(tmp_path):
    target = tmp_path / "out.npz"
    target.write_bytes(b"old")
    with atomic_path(target) as temporary:
        assert temporary.name == target.name
        np.savez(temporary, a=np.arange(3))
        assert target.read_bytes() == b"old"
    with np.load(target) as loaded:
        np.testing.assert_array_equal(loaded["a"], np.arange(3))
    assert os.listdir(tmp_path) == ["out.npz"]


def _write_half(path, raised):
    path.write_text("half")
    raise raised


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError),
        (SafetensorError("Error while serializing: I/O error"), OutputError),
        (DataError("no"), DataError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_atomic_path_leaves_nothing_behind(tmp_path, raised, expected):
    target = tmp_path / "out.json"
    target.write_text("old")
    with pytest.raises(expected), atomic_path(target) as temporary:
        _write_half(temporary, raised)
    assert os.listdir(tmp_path) == ["out.json"]
    assert target.read_text() == "old"


def test_atomic_path_wants_the_file(tmp_path):
    with pytest.raises(OutputError, match=r"out.json: can't be written"), atomic_path(tmp_path / "out.json"):
        pass
    assert not os.listdir(tmp_path)


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions/v3.json").write_text("old")
    (tmp_path / "latest.json").symlink_to("versions/v3.json")
    (tmp_path / "newest.json").symlink_to("latest.json")
    with atomic_path(tmp_path / "newest.json") as temporary:
        assert temporary.parent.parent == tmp_path / "versions"
        temporary.write_text("new")
    assert (tmp_path / "latest.json").is_symlink()
    assert (tmp_path / "newest.json").is_symlink()
    assert not (tmp_path / "versions/v3.json").is_symlink()
    assert (tmp_path / "versions/v3.json").read_text() == "new"
    assert os.listdir(tmp_path / "versions") == ["v3.json"]


def test_a_link_to_nothing_makes_its_target(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "latest.json").symlink_to("out/v1.json")
    write(tmp_path / "latest.json")
    assert (tmp_path / "latest.json").is_symlink()
    assert (tmp_path / "out/v1.json").read_text() == "new"


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o755, 0o444])
def test_an_older_file_keeps_its_mode(tmp_path: Path, umask: None, mode: int) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")
    path.chmod(mode)
    write(path)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone gives files away")
def test_an_older_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")
    os.chown(path, 1234, 2345)
    path.chmod(0o640)
    write(path)
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 2345, 0o640)


def test_a_new_file_has_the_mode_of_the_umask_whoever_wrote_it(tmp_path: Path, umask: None) -> None:
    with atomic_path(tmp_path / "out.json") as temporary:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600))
        (temporary.parent / "beside").touch(0o600)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("out.json", "beside")} == {0o640}


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "[a]*?", "two\nlines", os.fsdecode(b"\xff.json")])
def test_any_name_that_the_file_system_takes(tmp_path: Path, name: str) -> None:
    for content in ("old", "new"):
        write(tmp_path / name, content)
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "new"


def test_what_is_written_beside_takes_the_place_of_a_file_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "beside")
    with pytest.raises(OutputError, match="beside: is a FIFO"), atomic_path(tmp_path / "out") as temporary:
        [(temporary.parent / name).write_text("new") for name in ("out", "beside")]
    assert os.listdir(tmp_path) == ["beside"]


HOLD = """
import sys, time
from qpipe.ir.files.write import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary.parent.name, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_goes_with_the_next_one(tmp_path: Path) -> None:
    """While its process lives, a folder is left alone; what others called alike is nobody's to remove."""
    others = {".out.abcd1234", ".out.backup.qpipe", ".other.abcd1234.qpipe", "out"}
    for name in others:
        (tmp_path / name).mkdir() if name != "out" else (tmp_path / name).touch()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    left = process.stdout.readline().strip()
    write(tmp_path / "out")
    assert set(os.listdir(tmp_path)) == {*others, left}
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert set(os.listdir(tmp_path)) == {*others, left}
    write(tmp_path / "out")
    assert set(os.listdir(tmp_path)) == others


def test_folders_are_made_while_others_sweep(tmp_path: Path) -> None:
    """Two writers of one file at once: each ends with a whole file, and nothing is left."""
    script = """
import sys
from qpipe.ir.files.write import atomic_path
for _ in range(60):
    with atomic_path(sys.argv[1]) as temporary:
        temporary.write_text("new")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    writers = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [writer.communicate(timeout=120)[1] for writer in writers]
    assert ([writer.returncode for writer in writers], told) == ([0, 0], ["", ""])
    assert os.listdir(tmp_path) == ["out"]
