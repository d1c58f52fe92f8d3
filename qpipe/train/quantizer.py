"""An activation quantizer as it trains, with the activation before it."""

from __future__ import annotations

import torch
from torch import nn

from qpipe.arith.spec import QuantSpec
from qpipe.train.straight_through import exact_fake_quantize, fake_quantize


class Quantizer(nn.Module):
    """One activation quantizer, with the activation before it; `enabled` False lets the activation's values through.

    `carries` says that the values are already on the grid, `owns` that nobody else reads x, so it may be overwritten.
    `rounds` False lets them through in training only.
    """

    def __init__(self, spec: QuantSpec, activation: float | None = None, *, carries: bool, owns: bool) -> None:
        super().__init__()
        self.spec = spec
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
            return fake_quantize(x, self.spec, inplace=self.owns)
        x = self.activate(x)
        if self.training and self.enabled:
            return x
        return exact_fake_quantize(x, self.spec).float() if self.enabled else x

    def activate(self, x: torch.Tensor) -> torch.Tensor:
        """The activation alone; it overwrites x where nobody else reads it."""
        return activate(x if self.owns or self._activation is None else x.clone(), self._activation)


def activate(y: torch.Tensor, bound: float | None) -> torch.Tensor:
    """The fused activation, in place: what a layer computed is needed by none of its own gradients."""
    if bound is None:
        return y
    return y.relu_() if bound == float("inf") else y.clamp_(0.0, bound)
