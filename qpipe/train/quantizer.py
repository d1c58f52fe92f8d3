"""An activation quantizer as it trains, with the activation before it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from qpipe.arith.spec import QuantSpec
from qpipe.arith.table import CodeTable, GridOrTable, table_index
from qpipe.formats.binary import is_sign
from qpipe.ops import ActivationFunction, Curve, Rectifier
from qpipe.train.straight_through import exact_fake_quantize, fake_curve, fake_look_up, fake_quantize, fake_sign

Learn = Callable[[torch.Tensor, torch.Tensor, QuantSpec], torch.Tensor]
"""`(x, x rounded, grid) -> x rounded`, with a gradient of one's own beside x's."""


class Quantizer(nn.Module):
    """One activation quantizer, with the activation before it.

    `carries` says that the values are already on the grid. `grid` is that of the codes that readers get, `rounded_to`
    what real numbers are rounded to, `levels` what each code of a table becomes, float32 `[256]`. `to_ymax`: whether
    the gradient reaches ymax (see `fake_quantize`); that of a table ends at its largest code.
    """

    levels: torch.Tensor | None
    shift: torch.Tensor

    def __init__(
        self, grid_or_table: GridOrTable, function: ActivationFunction | None = None, *, carries: bool
    ) -> None:
        super().__init__()
        table = grid_or_table if isinstance(grid_or_table, CodeTable) else None
        self.grid, self.rounded_to, self.bits = grid_or_table.grid, grid_or_table.rounded_to, grid_or_table.bits
        self.register_buffer("levels", None if table is None else torch.from_numpy(table.levels()))
        self._is_sign = is_sign(grid_or_table)
        self._rounds = True
        self._function = function
        self._curve = function if table is not None and isinstance(function, Curve) else None
        self.carries = carries
        self.to_ymax = False
        self._start = self.grid
        self._through: Learn | None = None

    def forward(self, x: torch.Tensor, *, overwrite: bool = False) -> torch.Tensor:
        """x on its grid: in x's type while training, float32 otherwise. overwrite: x itself may be used up."""
        if self.carries:
            return x
        if self.training and self._rounds:
            # The clip to an unsigned grid is the ReLU.
            return self._fake(x, overwrite)
        # Outside of training the table has the curve in it.
        if self.training or self._curve is None:
            x = activate(x, self._function, overwrite=overwrite)
        if self.training:
            return x
        levels = self.current_levels()
        if levels is not None:
            return levels[table_index(x, self.rounded_to)]
        return exact_fake_quantize(x, self.grid).float()

    @property
    def rounds(self) -> bool:
        """Whether training rounds; evaluation always does."""
        return self._rounds

    def round_in_training(self, rounds: bool) -> None:
        """Let training round, or let the activation's values through as they are."""
        self._rounds = rounds

    def let_move(self) -> None:
        """Let the grid, which is no table's, be moved: how far is a part of the state, `shift`, and begins at 0."""
        self.register_buffer("shift", torch.zeros((), dtype=torch.int64))

    @property
    def moves(self) -> bool:
        """Whether `let_move` was called."""
        return "shift" in self._buffers

    @property
    def moved(self) -> int:
        """How far it is from where it began, in octaves."""
        return self.grid.exponent - self._start.exponent

    def move(self, shift: int) -> None:
        """Count in steps of `2**shift` those that it began with, from now on; after `let_move`."""
        self.shift.fill_(shift)
        self.grid = self.rounded_to = replace(self._start, exponent=self._start.exponent + shift)

    def learn(self, learn: Learn | None) -> None:
        """Let what training rounds go through this, or through nothing."""
        self._through = learn

    def unrounded(self, x: torch.Tensor) -> torch.Tensor:
        """What is rounded of x: x behind the activation."""
        return x if self.carries else activate(x, self._function)

    def current_levels(self) -> torch.Tensor | None:
        """`levels`, or what stands for them."""
        return self.levels

    def _fake(self, x: torch.Tensor, overwrite: bool) -> torch.Tensor:
        levels = self.current_levels()
        if levels is None:
            y = fake_quantize(x, self.grid, to_ymax=self.to_ymax)
            return y if self._through is None else self._through(x.detach(), y, self.grid)
        if self._is_sign:
            return fake_sign(x, self.rounded_to, levels)
        if self._curve is not None:
            return fake_curve(x, self.rounded_to, levels, self._curve)
        return fake_look_up(x, self.rounded_to, levels, inplace=overwrite)[0]

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        """As of every module; the grid follows its shift."""
        super()._load_from_state_dict(*arguments, **named)
        if self.moves:
            self.move(int(self.shift))


def activate(y: torch.Tensor, function: ActivationFunction | None, *, overwrite: bool = False) -> torch.Tensor:
    """The fused activation; overwrite: y itself may be used up."""
    if function is None:
        return y
    if not isinstance(function, Rectifier):
        return function.real(y)
    if math.isinf(function.bound):
        return y.relu_() if overwrite else y.relu()
    return y.clamp_(0.0, function.bound) if overwrite else y.clamp(0.0, function.bound)
