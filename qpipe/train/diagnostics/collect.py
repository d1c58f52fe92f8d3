"""All that is measured while a network trains, as one observer whose result is what `qpipe report` draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from qpipe.train.diagnostics.measurement import Measurement
from qpipe.train.executor import Executor


class Diagnostics(Measurement):
    """Hands everything on to its parts.

    Args:
        parts: by the names under which a checkpoint keeps what they have measured so far.
    """

    def __init__(self, parts: Mapping[str, Measurement]) -> None:
        self._parts = parts
        self._facts: dict[str, Any] = {}

    def on_start(self, executor: Executor) -> None:
        """Hand on."""
        for part in self._parts.values():
            part.on_start(executor)

    def before_update(self, executor: Executor, step: int) -> None:
        """Hand on."""
        for part in self._parts.values():
            part.before_update(executor, step)

    def after_update(self, executor: Executor, step: int) -> None:
        """Hand on."""
        for part in self._parts.values():
            part.after_update(executor, step)

    def on_end(self, executor: Executor) -> None:
        """Hand on, and note which layers and widths the network has."""
        modules, quantizers = list(executor.weighted()), list(executor.named_quantizers())
        self._facts = {
            "layers": [module.layer.name for module in modules],
            "weight_bits": [None if module.quantizer is None else module.quantizer.format.bits for module in modules],
            "activations": [name for name, _ in quantizers],
            "activation_bits": [quantizer.bits for _, quantizer in quantizers],
        }
        for part in self._parts.values():
            part.on_end(executor)

    def state(self) -> dict[str, torch.Tensor]:
        """What all parts keep."""
        return {
            f"{prefix}.{name}": tensor for prefix, part in self._parts.items() for name, tensor in part.state().items()
        }

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put back what `state` gave."""
        for prefix, part in self._parts.items():
            part.load_state(_under(f"{prefix}.", state))

    def result(self) -> dict[str, Any]:
        """What all parts measured; lists of a layer's are in the order of `layers`, or of `activations`."""
        found = dict(self._facts)
        for part in self._parts.values():
            found |= part.result()
        return found


def _under(prefix: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
