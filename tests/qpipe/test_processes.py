import os

import pytest

from qpipe.processes import is_main_process, process_count, usable_cores, wait_for_all


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_there_is_one_process() -> None:
    assert process_count() == 1
    assert is_main_process()
    wait_for_all()


@pytest.mark.parametrize("prefix", ["", "OMPI_COMM_"])
def test_what_a_launcher_says(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    size, rank = ("WORLD_SIZE", "RANK") if not prefix else ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
    monkeypatch.setenv(size, "3")
    monkeypatch.setenv(rank, "2")
    assert process_count() == 3
    assert not is_main_process()
    monkeypatch.setenv(rank, "0")
    assert is_main_process()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process to cores")
def test_only_the_cores_that_this_process_may_use_count() -> None:
    allowed = os.sched_getaffinity(0)
    assert usable_cores() == len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
