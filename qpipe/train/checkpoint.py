"""The state of a run after an epoch: safetensors (nothing is unpickled), whole or absent."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from qpipe.errors import ModelError, QpipeError
from qpipe.ir.save import atomic_path
from qpipe.train.run import Epoch, TrainingSettings

_MOMENTUM = "momentum."
_STATE = "state."


def save_checkpoint(
    path: Path,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: TrainingSettings,
    epochs: Sequence[Epoch],
) -> None:
    """Write parameters, buffers, momentum, and what the run was told."""
    tensors = {_STATE + name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    for parameter, state in optimizer.state.items():
        if state.get("momentum_buffer") is not None:
            tensors[_MOMENTUM + names[id(parameter)]] = state["momentum_buffer"]
    metadata = {
        "settings": json.dumps(dataclasses.asdict(settings)),
        "epochs": json.dumps([dataclasses.asdict(epoch) for epoch in epochs]),
    }
    with atomic_path(path) as beside:
        save_file(tensors, beside, metadata)


def load_checkpoint(
    path: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer, settings: TrainingSettings
) -> list[dict[str, Any]]:
    """Put the state back and return the epochs that are done; errors name what doesn't fit."""
    if not path.is_file():
        raise QpipeError(f"{path}: nothing to resume, no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{path}: not a checkpoint: {error}") from None
    if "settings" not in metadata or "epochs" not in metadata:
        raise ModelError(f"{path}: not a checkpoint of qpipe: it names no settings")
    _check_settings(path, json.loads(metadata["settings"]), dataclasses.asdict(settings))
    state = {name.removeprefix(_STATE): tensor for name, tensor in tensors.items() if name.startswith(_STATE)}
    expected = module.state_dict()
    for name in sorted(expected.keys() | state.keys()):
        if name not in state or name not in expected or state[name].shape != expected[name].shape:
            raise ModelError(f"{path}: a checkpoint of another network: '{name}' is only in one, or of another shape")
    module.load_state_dict(state)
    for name, parameter in module.named_parameters():
        if _MOMENTUM + name in tensors:
            optimizer.state[parameter]["momentum_buffer"] = tensors[_MOMENTUM + name]
    epochs: list[dict[str, Any]] = json.loads(metadata["epochs"])
    return epochs


def _check_settings(path: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """A run may be told to go on for longer, not to be another run."""
    for key, value in wanted.items():
        if key != "epochs" and stored.get(key) != value:
            raise QpipeError(f"{path}: a checkpoint of another run: {key} was {stored.get(key)}, now {value}")
