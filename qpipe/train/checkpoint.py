"""The state of a run between two updates: safetensors (nothing is unpickled), whole or absent.

Whatever holds tensors, the optimizer's `state_dict` among it, is kept as JSON in which each tensor is a name. A digest
over all of it is kept as well: a bit that flipped on the disk would train another network.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from qpipe.errors import ModelError, QpipeError, one_line
from qpipe.ir.files.write import atomic_path
from qpipe.train.companion import Companion
from qpipe.train.executor import Executor
from qpipe.train.identity import Identity, check_identity, digest_of, tensor_parts
from qpipe.train.observer import Observer
from qpipe.train.random_state import random_state, set_random_state
from qpipe.train.run import Epoch, RunState

_CONTENT, _IDENTITY, _DIGEST = "content", "identity", "digest"
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
    metadata = {_CONTENT: json.dumps(_pack(content, "", tensors)), _IDENTITY: json.dumps(parts.identity)}
    metadata[_DIGEST] = _digest(metadata, tensors)
    with atomic_path(path) as beside:
        save_file(tensors, beside, metadata)


def load_checkpoint(path: Path, parts: Parts) -> RunState:
    """Put everything back and say where the run stands; ModelError, in one line, for a damaged file, and what doesn't
    fit is named.
    """
    require_checkpoint(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: not a checkpoint: {one_line(error)}") from None
    if not {_CONTENT, _IDENTITY, _DIGEST} <= metadata.keys():
        raise ModelError(f"{path}: not a checkpoint of qpipe: it does not say of which run")
    if metadata[_DIGEST] != _digest(metadata, tensors):
        raise ModelError(f"{path}: a damaged checkpoint: what it holds is not what its digest says")
    try:
        check_identity(path, json.loads(metadata[_IDENTITY]), parts.identity)
        return _put_back(_unpack(json.loads(metadata[_CONTENT]), tensors), parts)
    except QpipeError:
        raise
    except Exception as error:
        # Its digest holds, so that is how it was written: by another program, or for another version.
        raise ModelError(f"{path}: a damaged checkpoint: {one_line(error, kind=True)}") from error


def _put_back(content: Any, parts: Parts) -> RunState:
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


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    """Of everything but itself; a text's length comes first, so that none runs into the next."""
    texts = [metadata[_CONTENT], metadata[_IDENTITY]]
    heads = (f"{len(text)}\n{text}".encode("utf-8", "surrogatepass") for text in texts)
    return digest_of(chain(heads, tensor_parts(tensors)))


def require_checkpoint(path: Path | None) -> Path:
    """The path, where there is a file to go on from; QpipeError elsewhere."""
    if path is None:
        raise QpipeError("--resume: no checkpoint was named, expected --checkpoint FILE")
    if not path.is_file():
        raise QpipeError(f"{path}: nothing to resume, no such file")
    return path


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
