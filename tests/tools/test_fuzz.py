"""The fuzzer: what it calls a defect, that its limits hold, and a short run of it in which nothing may be found."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import onnx
import pytest
from fuzzing.case import Command
from fuzzing.forked import run_forked
from fuzzing.judge import CHANGED, LEFT, LINES, UNNAMED, judge_error, judge_files, judge_words, snapshot
from fuzzing.networks import float_networks
from fuzzing.protobuf import damage
from fuzzing.values import damaged_bytes, damaged_json

from qpipe.errors import near

ROOT = Path(__file__).parents[2]
CASES = 60
SECONDS = 300  # a shared machine may be slow
EXPORT = Command(("export", "net.onnx", "-o", "made.onnx"), ("made.onnx",))


def test_nothing_is_found_in_a_short_run() -> None:
    words = ["tools/fuzz.py", "--cases", str(CASES), "--seed", "7", "--jobs", "2"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tools")])
    result = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        timeout=SECONDS, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{CASES} cases in" in result.stdout
    assert "0 distinct findings" in result.stdout


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("qpipe: error: net.onnx: not a model", None),
        ("comparing single layers ...\nqpipe: warning: tensor 'x'\nqpipe: error: --seed: -1, expected 0", None),
        ("qpipe: error: metadata 'qpipe.io': 3", UNNAMED),
        ("qpipe: error: net.onnx: Error calling f with: g", UNNAMED),
        ("a library's line\nqpipe: error: net.onnx: not a model", LINES),
        ("qpipe: error: net.onnx: \x1b[31mred", LINES),
        ("qpipe: error: net.onnx: a\nqpipe: error: net.onnx: b", LINES),
        ("", LINES),
    ],
)
def test_words(said: str, kind: str | None) -> None:
    found = judge_words(EXPORT, 2, said)
    assert [one.kind for one in found] == ([] if kind is None else [kind])


def _removes(folder: Path) -> None:
    (folder / "net.onnx").unlink()


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        (lambda folder: (folder / "made.onnx").write_bytes(b"new"), 0, None),
        (lambda folder: (folder / "made.onnx").write_bytes(b"half"), 2, LEFT),
        (lambda folder: (folder / ".made.onnx.ab12cd34").mkdir(), 0, LEFT),
        (lambda folder: (folder / "net.onnx").write_bytes(b"other"), 0, CHANGED),
        (lambda folder: (folder / "net.onnx").chmod(0o600), 0, CHANGED),
        (_removes, 2, CHANGED),
    ],
)
def test_files(change: Callable[[Path], object], status: int, kind: str | None, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"model")
    (tmp_path / "net.onnx").chmod(0o644)
    before = snapshot(tmp_path)
    change(tmp_path)
    assert [one.kind for one in judge_files(EXPORT, status, before, snapshot(tmp_path))] == [kind] * (kind is not None)


def test_a_traceback_is_placed_where_qpipe_raised_it() -> None:
    with pytest.raises(TypeError) as caught:
        near("x", 3)  # type: ignore[arg-type]
    assert judge_error(caught.value).place == "qpipe/errors.py:near: TypeError"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # these children touch no lock
def test_limits_of_time_and_memory_and_crashes(tmp_path: Path) -> None:
    def work(number: int) -> None:
        if number == 0:
            (tmp_path / "done").write_text("0")
        elif number == 1:
            time.sleep(60)
        elif number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            bytearray(8 << 30)  # MemoryError, without a page touched

    sys.stderr.flush()
    ended = {one.number: one for one in run_forked(range(4), work, seconds=0.25, jobs=2)}
    assert (tmp_path / "done").read_text() == "0"
    assert [ended[number].slow for number in range(4)] == [False, True, False, False]
    assert (ended[0].status, ended[2].signal) == (0, signal.SIGTERM)
    assert ended[3].status != 0
    assert ended[3].peak < 4 << 30


def test_equal_seeds_give_equal_damage() -> None:
    for seed in range(20):
        networks = [float_networks()["digits"] for _ in range(2)]
        assert damage(Random(seed), networks[0]) == damage(Random(seed), networks[1])
        assert networks[0].SerializeToString(deterministic=True) == networks[1].SerializeToString(deterministic=True)
        assert damaged_bytes(Random(seed), b"abc") == damaged_bytes(Random(seed), b"abc")
        assert damaged_json(Random(seed), {"a": [1]}) == damaged_json(Random(seed), {"a": [1]})


def test_damage_is_damage() -> None:
    """Nine of ten draws change the message."""
    healthy = float_networks()["mobile"]
    changed = 0
    for seed in range(100):
        network = onnx.ModelProto.FromString(healthy.SerializeToString())
        damage(Random(seed), network)
        changed += network != healthy
    assert changed >= 90
