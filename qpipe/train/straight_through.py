"""Gradients of rounding. The arithmetic is `qpipe.arith`'s or a native kernel that equals it; here it is only wrapped."""

from __future__ import annotations

from typing import Any

import torch

from qpipe.arith.quantize import dequantize, quantize
from qpipe.arith.spec import QuantSpec


class _StraightThrough(torch.autograd.Function):
    """Forward: the second tensor. Backward: all of the gradient to the first."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def straight_through(x: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    """`quantized`, whose gradient is x's (Bengio et al. 2013; FAQ, section 3.3)."""
    result: torch.Tensor = _StraightThrough.apply(x, quantized)  # type: ignore[no-untyped-call]
    return result


def fake_quantize(x: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """`dequantize(quantize(x))`; no gradient where x is outside of the range.

    float32 runs torch's fused kernel, which is the same function on a power-of-two scale (a test shows it).
    """
    if x.dtype == torch.float32:
        return torch.fake_quantize_per_tensor_affine(x, spec.scale, 0, spec.qmin, spec.qmax)
    return exact_fake_quantize(x, spec)


def exact_fake_quantize(x: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """The definition itself, in any float type, without gradient."""
    quantized: torch.Tensor = dequantize(quantize(x, spec, torch), spec)
    return quantized
