"""The state of a run between two updates: safetensors (nothing is unpickled), whole or absent.

Whatever holds tensors, the optimizer's `state_dict` among it, is kept as JSON in which each tensor is a name.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from qpipe.errors import ModelError, QpipeError
from qpipe.ir.files.save import atomic_path
from qpipe.train.companion import Companion
from qpipe.train.executor import Executor
from qpipe.train.identity import Identity, check_identity
from qpipe.train.observer import Observer
from qpipe.train.random_state import random_state, set_random_state
from qpipe.train.run import Epoch, RunState

_CONTENT = "content"
_TENSOR, _PAIRS = "tensor", "pairs"


@dataclass(frozen=True)
class Parts:
    """What changes while a network trains, and what a checkpoint of it must agree on."""

    executor: Executor
    optimizer: torch.optim.Optimizer
    observers: Sequence[Observer]
    companions: Sequence[Companion]
    identity: Identity


def save_checkpoint(path: Path, parts: Parts, state: RunState) -> None:
    """Write the state of everything beside `path` and rename it."""
    tensors: dict[str, torch.Tensor] = {}
    content = {
        "network": parts.executor.state_dict(),
        "optimizer": parts.optimizer.state_dict(),
        "companions": [companion.state_dict() for companion in parts.companions],
        "observers": [observer.state() for observer in parts.observers],
        "random": random_state(),
        "run": dataclasses.asdict(state),
    }
    metadata = {_CONTENT: json.dumps(_pack(content, "", tensors)), "identity": json.dumps(parts.identity)}
    with atomic_path(path) as beside:
        save_file(tensors, beside, metadata)


def load_checkpoint(path: Path, parts: Parts) -> RunState:
    """Put everything back and say where the run stands; errors name what doesn't fit."""
    require_checkpoint(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{path}: not a checkpoint: {error}") from None
    if _CONTENT not in metadata or "identity" not in metadata:
        raise ModelError(f"{path}: not a checkpoint of qpipe: it does not say of which run")
    check_identity(path, json.loads(metadata["identity"]), parts.identity)
    content = _unpack(json.loads(metadata[_CONTENT]), tensors)
    parts.executor.load_state_dict(content["network"])
    parts.optimizer.load_state_dict(content["optimizer"])
    for companion, state in zip(parts.companions, content["companions"], strict=True):
        companion.load_state_dict(state)
    # The main process alone has observers.
    for observer, kept in zip(parts.observers, content["observers"], strict=False):
        observer.load_state(kept)
    set_random_state(content["random"])
    run = content["run"]
    return RunState(**{**run, "epochs": [Epoch(**epoch) for epoch in run["epochs"]]})


def require_checkpoint(path: Path | None) -> Path:
    """The path, where there is a file to go on from; QpipeError elsewhere."""
    if path is None:
        raise QpipeError("--resume: no checkpoint was named, expected --checkpoint FILE")
    if not path.is_file():
        raise QpipeError(f"{path}: nothing to resume, no such file")
    return path


def remove_remains(path: Path) -> None:
    """Remove what a run that was killed while it wrote `path` left beside it."""
    for folder in path.parent.glob(f".{path.name}.????????"):
        if folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)


def _pack(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """`value` as JSON; its tensors go to `tensors` by name. A key of a mapping need not be a string."""
    if isinstance(value, torch.Tensor):
        # A copy: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {_TENSOR: name}
    if isinstance(value, dict):
        return {_PAIRS: [[key, _pack(item, f"{name}.{key}" if name else key, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
    return value


def _unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The inverse of `_pack`; a tuple comes back as a list."""
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _unpack(item, tensors) for key, item in value[_PAIRS]}
    return [_unpack(item, tensors) for item in value] if isinstance(value, list) else value
