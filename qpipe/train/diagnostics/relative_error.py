"""The average relative quantization error of a tensor in a low-bit format, and how its groups' magnitudes differ.

The paper draws "average relative quantization errors (AREs)" and does not say of what the average is. Here it is what
the words say: the mean of `|Q(x) - x| / |x|` over all numbers that are not zero, Q rounding to nearest. A zero is
exact in every format and has no relative error. A number that becomes zero has an error of 1, and no number that is
rounded to nearest and not clipped by the top of the format has a larger one: so the average tells how much of a tensor
a format is too coarse for, and 1 means all of it. (The other reading, `sum |Q(x) - x| / sum |x|`, is that of the
largest numbers, which every format has room for; it would not show what an exponent or a group's scale is for.)

Source: *Exploring the Potential of Low-bit Training of Convolutional Neural Networks*, sections 5.1.1 and 5.1.2 with
Figure 3; appendix C with Figure 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qpipe.arith.mls.formats import MlsFormat
from qpipe.arith.mls.quantize import quantize


@torch.no_grad()
def relative_errors(x: torch.Tensor, formats: Sequence[MlsFormat], *, groups: int = 1) -> torch.Tensor:
    """The average relative error of a float32 tensor in each format, float64 `[formats]`; NaN where all is zero.

    groups: of the convolution whose weight x is, as `quantize` takes them. Raises what that raises.
    """
    sums = []
    for fmt in formats:
        found = quantize(x, fmt, None, groups=groups)
        # In place: each tensor here is as large as an activation.
        sums.append(found.values.mul_(found.scale).sub_(x).div_(x).abs_().nansum(dtype=torch.float64))
    return torch.stack(sums) / x.count_nonzero()


@torch.no_grad()
def group_maxima(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The largest magnitudes of `x [N, C, ...]` by `channel [C]`, by `sample [N]`, and by `both [N, C]`."""
    both = x.abs().flatten(2).amax(2) if x.ndim > 2 else x.abs()
    return {"channel": both.amax(0), "sample": both.amax(1), "both": both}


def below_half(maxima: torch.Tensor) -> torch.Tensor:
    """The share of groups in which no number reaches half of the largest of all, float64 `[]`, of 1."""
    return (maxima < maxima.max() / 2).double().mean()
