"""Trained scales: the exponent l of an activation's grid learns an offset while the network trains.

Each scale has an offset theta, a real number that begins at 0 and trains with the gradient of `learned_step`. Scales
that ship are powers of two, so the grid follows it in whole octaves, straight through: an update begins at the nearest
shift, once theta is `TURN` away from the one that is used. So a theta that wavers between two shifts does not drag the
network along. No update takes theta further than `STEP`, however large the gradient of a network that is torn. From a
part of the run on all stay as they are, and what is shipped is what the last epochs trained with.

Weights need none of it: their exponents follow their deviation at every step (FAQ, section 3.1.1). Behind a
BatchNormalization gamma and beta move a tensor on its grid as well; what they can't move is what several layers share,
a residual stream.

Source: see `qpipe.train.learned_step`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Final

import torch
from pydantic import JsonValue
from torch import nn

from qpipe.arith.spec import QuantSpec
from qpipe.errors import ModelError
from qpipe.train.companion import Companion
from qpipe.train.companions.moving_scales import moving_scales
from qpipe.train.executor import Executor
from qpipe.train.learned_step import learned_step

TURN: Final = 0.75
"""Octaves: half of one would be the nearest shift at any time."""
STEP: Final = 0.25
"""Octaves."""


class TrainedScales(Companion):
    """The offsets of one network's scales, `[scales]`.

    networks: F, and H where there is one, whose gradients count as well. rate: how fast offsets learn, as a part of the
    learning rate; 1 is LSQ's. end: the part of the run, of 1, after which scales stay. ModelError where none can move.
    """

    def __init__(self, networks: Sequence[Executor], *, rate: float, end: Fraction) -> None:
        super().__init__()
        self.rate, self._end = rate, end
        self._scales = moving_scales(networks)
        if not self._scales:
            raise ModelError(
                "train_scales: no scale can move, expected fixed-point weights and activations without a table or bound"
            )
        self.offsets = nn.Parameter(torch.zeros(len(self._scales)))
        self._learns = False
        self._before = self.offsets.detach().clone()

    @torch.no_grad()
    def begin_update(self, done: Fraction, update: int) -> None:
        """Let the grids follow the offsets, until the end."""
        self._let_learn(done < self._end)
        if not self._learns:
            return
        for index, offset in enumerate(self.offsets.tolist()):
            scale = self._scales[index]
            if abs(offset - scale.shift) >= TURN and not scale.move(round(offset)):
                self.offsets[index] = scale.shift
        self._before = self.offsets.detach().clone()

    @torch.no_grad()
    def end_update(self) -> None:
        """Shorten the steps of offsets that went too far."""
        if not self._learns:
            return
        self.offsets.copy_(self._before + (self.offsets - self._before).clamp(-STEP, STEP))

    def facts(self) -> Mapping[str, JsonValue]:
        """How many scales could move, and how far those are that did."""
        moved: dict[str, JsonValue] = {scale.name: scale.shift for scale in self._scales if scale.shift}
        return {"scales": {"trained": len(self._scales), "moved": moved}}

    def _let_learn(self, learns: bool) -> None:
        if learns == self._learns:
            return
        self._learns = learns
        for index, scale in enumerate(self._scales):
            for quantizer in scale.quantizers:
                quantizer.learn(partial(self._learn, index) if learns and not quantizer.carries else None)

    def _learn(self, index: int, x: torch.Tensor, y: torch.Tensor, grid: QuantSpec) -> torch.Tensor:
        return learned_step(self.offsets[index], x, y, grid)
