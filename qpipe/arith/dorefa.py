"""DoReFa-Net's quantizer of weights: tanh, normalized by the layer's largest, on 2**k evenly spaced levels.

    w_q = 2 quantize_k(tanh(w) / (2 max |tanh(w)|) + 1/2) - 1        quantize_k(r) = round((2**k - 1) r) / (2**k - 1)

so `w_q = c / (2**k - 1)` with an odd code `c = 2j - (2**k - 1)`; there is no code 0. The codes get a nominal scale, one
power of two a layer, fixed, which brings them near the weights that training starts from; the factor 1 / (2**k - 1), as
every other of the whole layer, is in the statistics of the BatchNormalization that follows, so in its 8-bit multiplier.
Activations, `round((2**k - 1) x) / (2**k - 1)` of x clipped to [0, 1], are in the same way an unsigned fixed-point grid
whose top code stands for 1: gamma and beta of the BatchNormalization before it hold the factor.

Source: Zhou et al. 2016, *DoReFa-Net*, equations 5, 9 and 11 (f_w^k and f_a^k); the quantizer of AG, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

TINY = float(np.finfo(np.float32).tiny)
"""What the largest tanh counts as at least: weights of nothing but zeros have codes too."""


@dataclass(frozen=True)
class DoReFaSpec:
    """bits: k, 2 to 7. exponent: log2 of the nominal scale, that of all output channels."""

    bits: int
    exponent: int
    per_channel: ClassVar[bool] = True  # in the file: the multiplier rides in the scale of each channel

    @property
    def qmax(self) -> int:
        """The largest magnitude of a code, `2**k - 1`."""
        return int(2**self.bits - 1)

    @property
    def code_bits(self) -> int:
        """The width of a signed code: one bit more than k, because the codes are odd."""
        return self.bits + 1


def unrounded(weight: Any, bits: int, xp: Any = np) -> Any:
    """`(2**k - 1) tanh(w) / max |tanh(w)|` in w's type: what is rounded to the nearest odd code."""
    squashed = xp.tanh(weight)
    return squashed * ((2**bits - 1) / xp.clip(xp.amax(abs(squashed)), TINY, None))


def dorefa_codes(weight: Any, bits: int, xp: Any = np) -> Any:
    """The odd codes of a layer's weights, in w's float type; computed in float64, where numpy and torch agree."""
    wide, n = xp.asarray(weight, dtype=xp.float64), 2**bits - 1
    codes = 2 * xp.round((unrounded(wide, bits, xp) + n) / 2) - n
    return xp.asarray(codes, dtype=weight.dtype)


def nominal_exponent(weight: Any, codes: Any) -> int:
    """log2 of the power of two nearest to the factor that brings the codes nearest to the weights (least squares)."""
    product, energy = float((weight * codes).sum()), float((codes * codes).sum())
    return round(float(np.log2(product / energy))) if product > 0 else 0
