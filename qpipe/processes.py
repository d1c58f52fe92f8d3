"""The processes that `torchrun` or `accelerate launch` started for one command, and the cores that each may use."""

from __future__ import annotations

import atexit
import os
import threading
import time
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import PartialState

PATIENCE = timedelta(days=1)
"""How long processes wait for the main one, which evaluates and writes alone."""

_WATCH_SECONDS = 0.2
"""How long a child may outlive its parent."""
# torchrun's, and those of three kinds of MPI, by which `accelerate launch --mpirun_hostfile` starts CPU processes.
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def process_count() -> int:
    """How many processes the launcher started; 1 without one."""
    return _told(_SIZES, 1)


def is_main_process() -> bool:
    """Whether this process prints and writes the files; nothing is imported to tell."""
    return _told(_RANKS, 0) == 0


@lru_cache(maxsize=1)
def join_processes() -> PartialState:
    """Meet the other processes, once, over gloo or whatever the machine's accelerator speaks."""
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    atexit.register(state.destroy_process_group)
    return state


def wait_for_all() -> None:
    """Return once every process is here: what the main one wrote is then there for all."""
    if process_count() > 1:
        join_processes().wait_for_everyone()


def usable_cores() -> int:
    """How many cores this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent(parent: int) -> None:
    """Let this process end with the one that started it, whose number is `parent`, however that one ends.

    It asks: a pipe between them would be held open by the other children as well.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="ends with its parent").start()


def free_memory() -> int:
    """Bytes that could be taken without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


def _told(names: tuple[str, ...], default: int) -> int:
    """The first of these variables that the launcher set."""
    return next((int(os.environ[name]) for name in names if name in os.environ), default)
