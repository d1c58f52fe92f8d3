"""Run a command in two processes that meet over gloo, as `torchrun` does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_together(*words: str, cwd: Path, count: int = 2) -> subprocess.CompletedProcess[str]:
    """words: a script, or `-m` and a module, with arguments. Standalone, so that runs side by side find ports."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run([*launcher, *words], capture_output=True, text=True, check=False, cwd=cwd, env=environment)
