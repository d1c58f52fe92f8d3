"""Dynamic quantization (Algorithm 1): a float tensor becomes an MLS tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from qpipe.arith.mls.formats import FLOAT_MANTISSA, MAX_NORMAL, MIN_NORMAL, MlsFormat
from qpipe.arith.mls.generators import RandomBits
from qpipe.arith.mls.rounding import Rounding

_CHUNK = 1 << 16
"""Elements that are rounded together, so that what is between the operations stays in a core's cache."""


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
    if not _is_channels_last(x):
        x = x.contiguous()
    by_channel = groups if fmt.grouping == "c" else 1
    if not x.numel():
        return MlsTensor(x, x.new_tensor(2.0**MIN_NORMAL), x.new_ones([1] * x.dim()))
    source = _rows(x, fmt, by_channel)
    maxima = source.abs().amax(_reduced(x, fmt, by_channel), keepdim=True)
    scale = x.new_tensor(_tensor_scale(float(maxima.max()), power_of_two=fmt.power_of_two))
    group_scale = _group_scales(maxima / scale, float(scale), fmt)
    step = group_scale * scale

    values = torch.empty_like(x)
    target, rounding = (
        _rows(values, fmt, by_channel),
        Rounding(fmt.element, fmt.overflow, None if generator is None else RandomBits(generator)),
    )
    for piece in _pieces(source.shape):
        t = torch.div(source[piece], _part(step, piece), out=target[piece])
        rounding.round_(t)
        if fmt.axes:
            t.mul_(_part(group_scale, piece))
    return MlsTensor(values, scale, _broadcast(group_scale, x, fmt, by_channel))


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


def _is_channels_last(x: torch.Tensor) -> bool:
    return x.dim() > 2 and x.movedim(1, -1).is_contiguous() and not x.is_contiguous()


def _rows(x: torch.Tensor, fmt: MlsFormat, groups: int) -> torch.Tensor:
    """The tensor as memory has it, with an axis for each that counts groups and one for each stretch of others.

    `[n, positions, c]` or `[n, c, positions]`; by the c of a grouped convolution `[g, n / g, ...]` of both. Without
    groups `[numbers, 1]`.
    """
    if not fmt.axes:
        return (x.movedim(1, -1) if _is_channels_last(x) else x).view(-1, 1)
    n, c = x.shape[0], math.prod(x.shape[1:2])
    if _is_channels_last(x):
        return x.movedim(1, -1).view(groups if groups > 1 else n, -1, c)
    return x.view(groups, n // groups, c, -1) if groups > 1 else x.view(n, c, -1)


def _reduced(x: torch.Tensor, fmt: MlsFormat, groups: int) -> tuple[int, ...]:
    """The axes of `_rows` that lie within a group."""
    if not fmt.axes:
        return (0, 1)
    if groups > 1:
        return (1,) if _is_channels_last(x) else (1, 3)
    first, second = (0, 2) if _is_channels_last(x) else (0, 1)
    kept = {"n": {first}, "c": {second}, "nc": {first, second}}[fmt.grouping]
    return tuple(axis for axis in range(3) if axis not in kept)


def _broadcast(group_scale: torch.Tensor, x: torch.Tensor, fmt: MlsFormat, groups: int) -> torch.Tensor:
    """The groups' scales with the axes of x."""
    if groups > 1:
        n, c, ones = *x.shape[:2], [1] * (x.dim() - 2)
        return group_scale.view(groups, 1, c).expand(groups, n // groups, c).reshape(n, c, *ones)
    shape = [size if axis in fmt.axes else 1 for axis, size in enumerate(x.shape)]
    return group_scale.view(shape)


def _pieces(shape: torch.Size) -> Iterator[tuple[slice, ...]]:
    """Slices of the first axis of about a chunk each; where one row of it is more, of the second axis as well."""
    row = math.prod(shape[1:])
    if row <= _CHUNK:
        step = max(_CHUNK // max(row, 1), 1)
        yield from ((slice(start, start + step),) for start in range(0, shape[0], step))
        return
    step = max(_CHUNK // math.prod(shape[2:]), 1)
    for first in range(shape[0]):
        yield from ((slice(first, first + 1), slice(start, start + step)) for start in range(0, shape[1], step))


def _part(scales: torch.Tensor, piece: tuple[slice, ...]) -> torch.Tensor:
    """What of the scales belongs to a piece."""
    return scales[tuple(s if size > 1 else slice(None) for s, size in zip(piece, scales.shape, strict=False))]
