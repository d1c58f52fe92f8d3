"""Run a command in processes that meet over gloo, as `torchrun` does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 300  # a shared machine may be slow; a process that hangs must not hang the tests


def run_together(*words: str, cwd: Path, count: int = 2) -> subprocess.CompletedProcess[str]:
    """words: a script, or `-m` and a module, with arguments. Standalone, so that runs side by side find ports; one
    process is run without the launcher.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *(launcher if count > 1 else []), *words],
        cwd=cwd, env=environment, timeout=SECONDS, check=False, capture_output=True, text=True,
    )  # fmt: skip
