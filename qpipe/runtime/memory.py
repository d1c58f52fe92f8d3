"""Peak memory of a model, measured in a process of its own: a process keeps its peak, so no two share one."""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import psutil

from qpipe.errors import ModelError, QpipeError
from qpipe.processes import end_with_parent
from qpipe.runtime.session import open_session

if TYPE_CHECKING:
    from qpipe.runtime.latency import Sizes

RUNS: Final = 3
"""Runs of the model in the child: its arenas reach their size in the first two."""


@dataclass(frozen=True)
class PeakMemory:
    """total: peak resident bytes of the process that ran the model; before: resident bytes before it was opened."""

    total: int
    before: int

    @property
    def model(self) -> int:
        """Bytes that the model added."""
        return self.total - self.before


def peak_rss() -> int:
    """The largest resident memory, in bytes, that this process had so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its ru_maxrss starts with the size of the process that this one was forked from.
        fields = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line)
        if "VmHWM" in fields:
            return int(fields["VmHWM"].split()[0]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure_memory(
    path: str | Path,
    batch_size: int = 1,
    *,
    threads: int | None = None,
    seconds: float = math.inf,
    sizes: "Sizes" = MappingProxyType({}),
) -> PeakMemory:
    """Open the model at `path` in a new process, run it on random input, return the process's peak.

    seconds: after which it is not run again. sizes: as in `random_input`.
    """
    words = [path, batch_size, threads or 0, seconds, os.getpid(), json.dumps(dict(sizes))]
    command = [sys.executable, "-m", "qpipe.runtime.memory", *map(str, words)]
    # The same qpipe as here, wherever the child looks for packages.
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        message = result.stderr.strip().splitlines()
        raise ModelError(message[-1] if message else f"{path}: the process that measures its memory ended early")
    return PeakMemory(**json.loads(result.stdout))


def _measure_here(path: str, batch_size: int, threads: int | None, seconds: float, sizes: "Sizes") -> PeakMemory:
    from qpipe.runtime.latency import random_input

    before = psutil.Process().memory_info().rss
    session = open_session(path, threads=threads)
    feed = random_input(session, batch_size, sizes)
    until = time.monotonic() + seconds
    for _ in range(RUNS):
        session.run(None, feed)
        if time.monotonic() > until:
            break
    return PeakMemory(peak_rss(), before)


def _main(arguments: list[str]) -> int:
    path, batch_size, threads, seconds, parent, sizes = arguments
    end_with_parent(int(parent))
    try:
        figures = _measure_here(path, int(batch_size), int(threads) or None, float(seconds), json.loads(sizes))
    except QpipeError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    sys.stdout.write(json.dumps(asdict(figures)))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
