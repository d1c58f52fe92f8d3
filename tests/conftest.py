"""What all tests share: the folder of real models and data, where there is one."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# These networks are too small for threads, which on a busy machine slow torch down many times. Before its import.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shared machine stalls now and then; a test that is slow by itself shows in pytest's durations.
settings.register_profile("qpipe", deadline=None)
# Continuous integration judges a change by examples that the change before it had too; new ones are drawn by hand.
settings.register_profile("qpipe-ci", deadline=None, derandomize=True)
settings.load_profile("qpipe-ci" if os.environ.get("CI") else "qpipe")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with `models` and `data`: QPIPE_SHARED, or `shared` beside the repository. Skips without one."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("QPIPE_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no folder of real models and data at {folder} (set QPIPE_SHARED)")
    return folder
