"""Real processes, killed at random moments: what they end with is what nobody disturbed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.processes import SECONDS
from support.zoo.digits import write_quantized_digits

KILLS = 3
RUN = "--data digits --recipe faq-4bit-growing --epochs 3 --lr 0.02 --batch-size 32 --no-flip --no-evaluate --diagnose"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    write_quantized_digits(folder)
    return folder


def start(folder: Path, output: str, *options: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "qpipe", "finetune", "net.qdq.onnx", *RUN.split(), "-o", output, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, told


def kill_at_random(process: subprocess.Popen[str], checkpoint: Path, draw: random.Random) -> bool:
    """Kill it a moment after it wrote a new checkpoint; whether it still ran."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
            time.sleep(draw.uniform(0, 0.5))
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=SECONDS)
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_bytes(folder: Path) -> None:
    finish(start(folder, "whole.onnx"))
    checkpoint, options = folder / "state", ("--checkpoint", "state", "--checkpoint-every", "2")
    draw = random.Random()
    killed = 0
    for _ in range(KILLS):
        resume = ("--resume",) if checkpoint.exists() else ()
        killed += kill_at_random(start(folder, "resumed.onnx", *options, *resume), checkpoint, draw)
    assert killed >= 2  # else it shows nothing; on a fast machine the last ones may come too late
    finish(start(folder, "resumed.onnx", *options, "--resume"))
    assert (folder / "resumed.onnx").read_bytes() == (folder / "whole.onnx").read_bytes()
    assert [file.name for file in folder.glob(".*")] == []
