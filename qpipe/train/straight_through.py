"""Gradients of rounding. The arithmetic is `qpipe.arith`'s, or native kernels that equal it, only wrapped here."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from qpipe.arith.quantize import dequantize, quantize
from qpipe.arith.spec import QuantSpec

_ROUNDS_TO_INTEGERS = 1.5 * 2.0**23  # a float32 of this size has steps of 1, and so has everything 2**22 around it


class _StraightThrough(torch.autograd.Function):
    """Forward: the second tensor. Backward: all of the gradient to the first."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


class _Round(torch.autograd.Function):
    """Forward: to the nearest multiple of a power of two, ties to even. Backward: straight through.

    Adding and subtracting a number whose float32 steps are the scale rounds exactly so, in two passes over memory
    instead of three.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
        magic = _ROUNDS_TO_INTEGERS * scale
        return x.add(magic).sub_(magic)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def straight_through(x: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    """`quantized`, whose gradient is x's (Bengio et al. 2013; FAQ, section 3.3)."""
    result: torch.Tensor = _StraightThrough.apply(x, quantized)  # type: ignore[no-untyped-call]
    return result


def fake_quantize(x: torch.Tensor, spec: QuantSpec, *, inplace: bool = False) -> torch.Tensor:
    """`dequantize(quantize(x))` of float32 x; no gradient where x is outside of the range.

    The clip comes first and is a native kernel with its gradient; on an unsigned grid it is the ReLU as well. inplace
    clips x itself.
    """
    clipped = F.hardtanh(x, spec.qmin * spec.scale, spec.qmax * spec.scale, inplace)
    result: torch.Tensor = _Round.apply(clipped, spec.scale)  # type: ignore[no-untyped-call]
    return result


def exact_fake_quantize(x: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """The definition itself, in any float type, without gradient."""
    quantized: torch.Tensor = dequantize(quantize(x, spec, torch), spec)
    return quantized
