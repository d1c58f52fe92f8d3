"""Commands in several processes."""

import json
from pathlib import Path

import pytest

from qpipe.cli.main import main
from support.processes import run_together

pytestmark = pytest.mark.slow
OPTIONS = ["--mean", "0.3", "--std", "0.38", "--activation-bits", "4", "--activation-rounding", "least-error"]


def test_calibration_in_two_processes_writes_the_file_of_one(here: Path) -> None:
    """With each kind of merge: statistics of a folded BatchNormalization, ranges, rounding errors."""
    words = ["calibrate", "net.onnx", "--data", "digits", "--batches", "3", "--batch-size", "50", "--json", *OPTIONS]
    assert main([*words, "-o", "one.qdq.onnx"]) == 0
    done = run_together("-m", "qpipe", *words, "-o", "two.qdq.onnx", cwd=here)
    assert done.returncode == 0, done.stderr
    # The main process alone prints.
    assert json.loads(done.stdout)["output"] == "two.qdq.onnx"
    assert (here / "two.qdq.onnx").read_bytes() == (here / "one.qdq.onnx").read_bytes()


def test_a_wrong_word_ends_all_of_them(here: Path) -> None:
    done = run_together("-m", "qpipe", "calibrate", "nothing.onnx", "--data", "digits", "-o", "x.onnx", cwd=here)
    assert done.returncode != 0
    assert "qpipe: error: nothing.onnx: no such file" in done.stderr
    assert not (here / "x.onnx").exists()
