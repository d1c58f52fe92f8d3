"""Dynamic quantization (Algorithm 1): a float tensor becomes an MLS tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from qpipe.arith.mls.formats import FLOAT_MANTISSA, MAX_NORMAL, MIN_NORMAL, MlsFormat
from qpipe.arith.mls.layout import Layout, is_channels_last
from qpipe.arith.mls.rounding import Rounding


@dataclass(frozen=True)
class MlsTensor:
    """A quantized tensor: `x` is about `values * scale`.

    values: signed element times the scale of its group, exact in float32, zeros positive; of x's shape, and
    channels_last where x is. scale: the tensor's, `[]`. group_scale: the groups', with 1 for each axis that counts none
    (`[co, ci / g, 1, 1]` of a grouped convolution's weight by input channel).
    """

    values: torch.Tensor
    scale: torch.Tensor
    group_scale: torch.Tensor


@torch.no_grad()
def quantize(x: torch.Tensor, fmt: MlsFormat, generator: torch.Generator | None, *, groups: int = 1) -> MlsTensor:
    """Round a tensor to the grid that its own magnitudes give.

    x: float32, of any shape with the axes that count groups. generator: of stochastic rounding (equation 4), whose bits
    are given out in the order of memory; None: to nearest, half to even. groups: those of the convolution whose weight
    x is, which matter by input channel alone (see `qpipe.arith.mls.formats`).

    Each operation is float32's, rounded to nearest. The tensor's scale is max|x|, but at least 2**-126. A group's is
    the smallest number of its format that is not below max|group| / scale; nor below the powers of two from which on
    its products with the tensor's scale and with elements are normal numbers. So both are defined for zeros and for
    subnormal numbers. An element is x divided by the product of the scales, rounded; what is 1 and more, or rounds past
    the top, is the largest element.

    FloatingPointError: an element is infinite or not a number. ValueError: an axis that counts groups is missing.
    """
    fmt.check_axes(tuple(x.shape))
    x = x.detach()
    if not is_channels_last(x):
        x = x.contiguous()
    if not x.numel():
        ones = x.new_ones(fmt.group_shape(x.shape, groups))
        return MlsTensor(x, x.new_tensor(2.0**MIN_NORMAL), _per_channel(ones, x, fmt, groups))
    layout = Layout.of(x, fmt, groups)
    source = layout.rows(x)
    maxima = layout.maxima(source)
    scale = x.new_tensor(_tensor_scale(float(maxima.max()), power_of_two=fmt.power_of_two))
    group_scale = _group_scales(maxima / scale, float(scale), fmt)
    step = group_scale * scale

    values = torch.empty_like(x)
    target, rounding = layout.rows(values), Rounding(fmt.element, fmt.overflow, generator)
    for piece in layout.pieces():
        t = torch.div(source[piece], layout.part(step, piece), out=target[piece])
        rounding.round_(t)
        if fmt.axes:
            t.mul_(layout.part(group_scale, piece))
    return MlsTensor(values, scale, _per_channel(group_scale, x, fmt, groups))


def _per_channel(group_scale: torch.Tensor, x: torch.Tensor, fmt: MlsFormat, groups: int) -> torch.Tensor:
    """The groups' scales with the axes of x, against which they broadcast."""
    repeats = fmt.group_repeats(x.shape, groups)
    group_scale = group_scale.view(fmt.group_shape(x.shape, groups))
    return group_scale.repeat_interleave(repeats, 0) if repeats > 1 else group_scale


def _tensor_scale(largest: float, *, power_of_two: bool) -> float:
    if not math.isfinite(largest):
        raise FloatingPointError(
            f"a tensor to quantize has {largest} for its largest magnitude, expected finite numbers"
        )
    scale = max(largest, 2.0**MIN_NORMAL)
    if power_of_two:
        fraction, exponent = math.frexp(scale)
        scale = 2.0 ** min(exponent - (fraction == 0.5), MAX_NORMAL)
    return scale


def _group_scales(ratios: torch.Tensor, scale: float, fmt: MlsFormat) -> torch.Tensor:
    """The groups' scales: the ratios to the tensor's scale, rounded up in the bits of float32, carries included."""
    below = (1 << FLOAT_MANTISSA - fmt.group.mantissa) - 1
    up = ((ratios.view(torch.int32) + below) & ~below).view(torch.float32)
    no_subnormal = MIN_NORMAL - (math.frexp(scale)[1] - 1)
    return up.clamp_(2.0 ** max(fmt.smallest_group_scale, no_subnormal), 1.0)
