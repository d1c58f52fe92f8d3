"""What several tests of training run on and write to."""

from pathlib import Path

import pytest

from qpipe.data import Source
from support.training import bright_images


@pytest.fixture(scope="module")
def source() -> Source:
    return bright_images()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a run keeps its checkpoint."""
    return tmp_path / "run.safetensors"
