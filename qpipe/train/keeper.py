"""When a run's checkpoint is written, and what to say of the last one when the run can't go on."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

from qpipe.errors import OutputError, QpipeError
from qpipe.ir.graph.numbers import LARGEST
from qpipe.train.checkpoint import Parts, load_checkpoint, require_checkpoint, save_checkpoint
from qpipe.train.run import RunState


class DivergedError(QpipeError):
    """A loss or a weight that is no number any more."""


@dataclass
class Keeper:
    """Keeps the run in one file, the newest whole state of it; path None keeps nothing.

    every: updates between two checkpoints; None: only where the loop says so. writes: whether this process does.
    """

    path: Path | None
    every: int | None
    parts: Parts
    writes: bool
    last: str = ""

    def resume(self) -> RunState:
        """Put everything back as the file has it. Raises QpipeError where there is none, or another run's."""
        state = load_checkpoint(require_checkpoint(self.path), self.parts)
        self._remember(state)
        return state

    def keep_if_due(self, state: RunState) -> None:
        """Write the state after an update, every so many of them."""
        if self.every is not None and state.updates % self.every == 0:
            self.require_finite(state)
            self.keep(state)

    def keep(self, state: RunState) -> None:
        """Write the state, after a look at it with `require_finite`; where that fails, warn, and keep the file as it
        was: what is trained may still be written elsewhere.
        """
        if self.path is None:
            return
        if self.writes:
            try:
                save_checkpoint(self.path, self.parts, state)
            except OutputError as error:
                kept = f"the last one is {self.last}" if self.last else "there is none yet"
                warnings.warn(f"no checkpoint after update {state.updates}: {error}; {kept}", stacklevel=2)
                return
        self._remember(state)

    def require_finite(self, state: RunState) -> None:
        """Raise DivergedError where a weight or a statistic of the network is no number, or one that no file may hold
        (`qpipe.ir.graph.numbers`): what is written must be read again.
        """
        for name, tensor in self.parts.executor.state_dict().items():
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            largest = float(tensor.abs().max())  # NaN where one is
            if not math.isfinite(largest):
                raise self.diverged(state, self._of_layer(name, "a weight is no finite number"))
            # The squares of what is not too large.
            if largest >= LARGEST and not name.endswith("variance"):
                raise self.diverged(state, self._of_layer(name, f"a weight is as large as {largest:.3g}"))

    def diverged(self, state: RunState, what: str) -> DivergedError:
        """The error that says where the run stands, and which checkpoint is the last good one."""
        kept = f"; the last good checkpoint is {self.path} ({self.last})" if self.last else ""
        return DivergedError(f"epoch {state.number}, update {state.updates}: {what}; a lower --lr may help{kept}")

    def _of_layer(self, name: str, what: str) -> str:
        owner = self.parts.executor.owner(name)
        return what if owner is None else f"{owner}: {what}"

    def _remember(self, state: RunState) -> None:
        self.last = f"after update {state.updates}, {len(state.epochs)} epochs done"
