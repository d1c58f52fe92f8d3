"""Gradients of rounding. The arithmetic is `qpipe.arith`'s, or native kernels that equal it, only wrapped here."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional as F

from qpipe.arith.quantize import dequantize, quantize
from qpipe.arith.spec import QuantSpec
from qpipe.arith.table import table_index
from qpipe.ops import ActivationFunction

# A number of this size has steps of 1 in its type, and so has everything within a third of it around it.
_ROUNDS_TO_INTEGERS = {torch.float32: 1.5 * 2.0**23, torch.bfloat16: 1.5 * 2.0**7}
_LARGEST_IN_BFLOAT16 = 63


def layout_of(x: torch.Tensor) -> torch.memory_format:
    """Whether x lies in memory with its channels last."""
    is_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """The same images, or filters, with the channels last in memory: there native kernels are fastest."""
    return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.contiguous_format)


class _StraightThrough(torch.autograd.Function):
    """Forward: the second tensor. Backward: all of the gradient to the first."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


class _ClipAndRound(torch.autograd.Function):
    """Forward: clipped to `limits`, and to the nearest multiple of a power of two, ties to even. Backward: straight
    through where x is between `ends`.

    Adding and subtracting a number whose own steps are the scale rounds exactly so, in two passes over memory instead
    of three. `x` is float32, or bfloat16 where all results are at most `_LARGEST_IN_BFLOAT16` steps; of larger ones
    float32 is rounded. Of x alone is kept what the backward needs, so the gradient takes one pass, in x's type. It has
    the layout of the result: a slice or a mean hands back another, and native kernels are slow on a mix.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, spec: QuantSpec, limits: tuple[float, float], ends: tuple[float, float]
    ) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.ends = ends
        is_coarse = x.dtype == torch.float32 or spec.largest <= _LARGEST_IN_BFLOAT16
        # What is computed anew here nobody else holds.
        y = x.clamp(*limits) if is_coarse else x.float().clamp_(*limits)
        magic = _ROUNDS_TO_INTEGERS[y.dtype] * spec.scale
        return y.add_(magic).sub_(magic).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=layout_of(x))
        return torch.ops.aten.hardtanh_backward(gradient, x, *ctx.ends), None, None, None


class _LookUp(torch.autograd.Function):
    """Forward: the levels at these indices. Backward: straight through."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, index: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        ctx.layout = layout_of(x)
        return levels[index]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0].contiguous(memory_format=ctx.layout), None, None


class _Sign(torch.autograd.Function):
    """Forward: the level of the code that x is rounded to, a sign. Backward: `2 - 2 |x|` within |x| < 1, 0 beyond."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, before: QuantSpec, levels: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return levels[table_index(x.float(), before)].to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (x,) = ctx.saved_tensors
        slope = x.abs().mul_(-2).add_(2).clamp_(min=0)
        return slope.mul_(gradients[0]), None, None


def straight_through(x: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    """`quantized`, whose gradient is x's (Bengio et al. 2013; FAQ, section 3.3)."""
    result: torch.Tensor = _StraightThrough.apply(x, quantized)  # type: ignore[no-untyped-call]
    return result


def fake_quantize(x: torch.Tensor, spec: QuantSpec, *, to_ymax: bool = False) -> torch.Tensor:
    """`dequantize(quantize(x))` of float32 or bfloat16 x, in x's type; no gradient where x is outside of the range.

    On an unsigned grid the clip is the ReLU as well.

    Args:
        x: of any shape.
        spec: the grid.
        to_ymax: let the gradient reach ymax, the power of two one step beyond the largest code, where FAQ's clip is
            (section 3.1); of few bits that is much of the range. A ReLU's 0 and a ReLU6's bound are ends all the same.
    """
    low, high = limits = spec.qmin * spec.scale, spec.qmax * spec.scale
    if to_ymax:
        low -= spec.scale if spec.is_signed else 0.0
        high += spec.scale if math.isinf(spec.bound) else 0.0
    result: torch.Tensor = _ClipAndRound.apply(x, spec, limits, (low, high))  # type: ignore[no-untyped-call]
    return result


def fake_look_up(
    x: torch.Tensor, before: QuantSpec, levels: torch.Tensor, *, top: float | None = None, inplace: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The level (of 256, float32, each an integer of 8 bits times a power of two) behind x's code, in x's type; codes.

    There is no gradient outside of the range of `before`, as with `fake_quantize`, nor above `top`.
    """
    with torch.no_grad():
        index = table_index(x.float(), before)
    high = before.qmax * before.scale
    clipped = F.hardtanh(x, before.qmin * before.scale, high if top is None else min(top, high), inplace)
    result: torch.Tensor = _LookUp.apply(clipped.float(), index, levels)  # type: ignore[no-untyped-call]
    return result.to(x.dtype), index


def fake_curve(x: torch.Tensor, before: QuantSpec, levels: torch.Tensor, function: ActivationFunction) -> torch.Tensor:
    """`fake_look_up` of levels that are a function's: the gradient is that of the function itself, at x."""
    with torch.no_grad():
        index = table_index(x.float(), before)
    clipped = F.hardtanh(x, before.qmin * before.scale, before.qmax * before.scale)
    return straight_through(function.real(clipped), levels[index].to(x.dtype))


def fake_sign(x: torch.Tensor, before: QuantSpec, levels: torch.Tensor) -> torch.Tensor:
    """The sign of float32 or bfloat16 x rounded to a grid, in x's type, with the gradient of a piecewise quadratic.

    Source: Liu et al. 2018, section 3.3 (ApproxSign; see `qpipe.formats.binary`).
    """
    result: torch.Tensor = _Sign.apply(x, before, levels)  # type: ignore[no-untyped-call]
    return result


def exact_fake_quantize(x: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """The definition itself, in any float type, without gradient."""
    quantized: torch.Tensor = dequantize(quantize(x, spec), spec)
    return quantized
