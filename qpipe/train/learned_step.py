"""The gradient of an activation's step, for what learns it.

    y = s clip(round(x / s), Q_N, Q_P),   s = 2**(l + theta)

The offset theta is a real number, of which the forward uses an integer, straight through. Within the range and outside:

    dy/ds = round(x / s) - x / s     or     Q_N or Q_P            (LSQ, equation 3)
    dy/dtheta = s ln 2 dy/ds

LSQ multiplies the gradient of s by g = 1 / sqrt(N Q_P), N the numbers of one image, so that a step moves as fast as
weights do (section 2.2). Its s is a real number that begins at 2 <|x|> / sqrt(Q_P), section 2.1; ours is an exponent.
So s is counted in <|x|>, where it is of the size u = 2 / sqrt(Q_P): a change of s by ds is one of theta by
ds / (u ln 2), and what is handed to the optimizer as theta's gradient is

    g / (u ln 2)**2  dL/dtheta

Then nothing changes with a factor between layers that the next one takes back, as it would with s itself.

Source: Esser et al. 2020, *Learned Step Size Quantization*; exponents that train: Jain et al. 2020, *Trained
Quantization Thresholds*, section 3.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from qpipe.arith.spec import QuantSpec


def learned_step(offset: torch.Tensor, x: torch.Tensor, y: torch.Tensor, grid: QuantSpec) -> torch.Tensor:
    """y as it is, with all of its gradient, and with one for the offset.

    offset: theta, float32 `()`. x: what was rounded to y on the grid, `[N, ...]`; it gets no gradient from here.
    """
    result: torch.Tensor = _LearnedStep.apply(offset, x, y, grid)  # type: ignore[no-untyped-call]
    return result


def gradient_factor(numbers: int, grid: QuantSpec) -> float:
    """`g / (u ln 2)**2`; numbers: N."""
    unit = 2 / math.sqrt(grid.peak)
    return 1 / (math.sqrt(numbers * grid.peak) * (unit * math.log(2)) ** 2)


class _LearnedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, offset: torch.Tensor, x: torch.Tensor, y: torch.Tensor, grid: QuantSpec) -> torch.Tensor:
        ctx.save_for_backward(x, y)
        ctx.grid = grid
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor, None]:
        (x, y), grid, (gradient,) = ctx.saved_tensors, ctx.grid, gradients
        is_within = (x >= grid.qmin * grid.scale) & (x <= grid.qmax * grid.scale)
        # In units of s: both are multiplied by s ln 2.
        slope = torch.where(is_within, y - x, y)
        total = (gradient * slope).sum(dtype=torch.float32)
        return total * (math.log(2) * gradient_factor(x[0].numel(), grid)), None, gradient, None
