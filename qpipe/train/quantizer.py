"""An activation quantizer as it trains, with the activation before it."""

from __future__ import annotations

import torch
from torch import nn

from qpipe.arith.table import CodeTable, Grid, table_index
from qpipe.formats.binary import is_sign
from qpipe.train.straight_through import exact_fake_quantize, fake_look_up, fake_quantize, fake_sign


class Quantizer(nn.Module):
    """One activation quantizer, with the activation before it; `enabled` False lets the activation's values through.

    `carries` says that the values are already on the grid, `owns` that nobody else reads x, so it may be overwritten.
    `rounds` False lets them through in training only. grid: where the values are rounded to, or the table behind it;
    `spec` is what readers see, `before` what is rounded to, `levels` what each code of it becomes, float32 `[256]`.
    """

    levels: torch.Tensor | None

    def __init__(self, grid: Grid, activation: float | None = None, *, carries: bool, owns: bool) -> None:
        super().__init__()
        table = grid if isinstance(grid, CodeTable) else None
        self.spec, self.before = (grid.after, grid.before) if isinstance(grid, CodeTable) else (grid, grid)
        self.bits = grid.bits
        self.register_buffer("levels", None if table is None else torch.from_numpy(table.levels()))
        self._is_sign = is_sign(grid)
        self.enabled = True
        self.rounds = True
        self.owns = owns
        self._activation = activation
        self._carries = carries

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x on its grid: in x's type while training, float32 otherwise."""
        if self._carries:
            return x
        if self.enabled and self.training and self.rounds:
            # The clip to an unsigned grid is the ReLU.
            return self._fake(x)
        x = self.activate(x)
        if self.training or not self.enabled:
            return x
        levels = self.current_levels()
        if levels is not None:
            return levels[table_index(x, self.before, torch)]
        return exact_fake_quantize(x, self.spec).float()

    def current_levels(self) -> torch.Tensor | None:
        """`levels`, or what stands for them."""
        return self.levels

    def _fake(self, x: torch.Tensor) -> torch.Tensor:
        levels = self.current_levels()
        if levels is None:
            return fake_quantize(x, self.spec, inplace=self.owns)
        if self._is_sign:
            return fake_sign(x, self.before, levels)
        return fake_look_up(x, self.before, levels, inplace=self.owns)[0]

    def activate(self, x: torch.Tensor) -> torch.Tensor:
        """The activation alone; it overwrites x where nobody else reads it."""
        return activate(x if self.owns or self._activation is None else x.clone(), self._activation)


def activate(y: torch.Tensor, bound: float | None) -> torch.Tensor:
    """The fused activation, in place: what a layer computed is needed by none of its own gradients."""
    if bound is None:
        return y
    return y.relu_() if bound == float("inf") else y.clamp_(0.0, bound)
