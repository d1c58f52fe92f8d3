"""The grid on which a quantized tensor lives: FAQ's fixed-point quantizer Q_{b,l}."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

STORAGE_MAX = 255  # activations are stored as uint8: signed int8 ones are about 20 times slower on onnxruntime
SIGNED_ZERO_POINT = 128  # even, so that half-to-even is the same with and without it
WIDE_BITS = 16
"""Of a residual stream that normalizations read: uint16, of which all codes are used, because no Clip takes them."""
WIDE_MAX = 2**WIDE_BITS - 1
WIDE_ZERO_POINT = 2 ** (WIDE_BITS - 1)


@dataclass(frozen=True)
class QuantSpec:
    """Real value = `q * 2**exponent` with an integer `q` in `[qmin, qmax]`, stored as uint8 or uint16 `q + zero_point`.

    Source: FAQ, section 3.1: unsigned `[0, 2**b - 1]`, signed and narrow `[-(2**(b-1) - 1), 2**(b-1) - 1]`. What fills
    its type has one more below, unlike there: it saturates by itself, where a narrow range needs a Clip at each tensor.
    The zero point says only how a sign is stored: 0 or 128, or another even one where numbers reach further on one side
    (see `refined`). Behind a table, where nothing rounds to the grid, it may be any.
    """

    exponent: int
    qmin: int
    qmax: int
    zero_point: int = 0

    def __post_init__(self) -> None:
        low, high = self.stored_min, self.stored_max
        if not (0 <= low <= high <= STORAGE_MAX or (low, high) == (0, WIDE_MAX)):
            raise ValueError(f"[{self.qmin}, {self.qmax}] with zero point {self.zero_point} does not fit uint8")

    @classmethod
    def unsigned(cls, bits: int, exponent: int) -> QuantSpec:
        """`[0, 2**bits - 1]`."""
        return cls(exponent, 0, 2**bits - 1, 0)

    @classmethod
    def signed(cls, bits: int, exponent: int) -> QuantSpec:
        """`[-(2**(bits-1) - 1), 2**(bits-1) - 1]`; of 8 and 16 bits one more."""
        limit = 2 ** (bits - 1) - 1
        if bits == WIDE_BITS:
            return cls(exponent, -limit - 1, limit, WIDE_ZERO_POINT)
        return cls(exponent, -limit - (bits == STORAGE_MAX.bit_length()), limit, SIGNED_ZERO_POINT)

    @classmethod
    def around(cls, exponent: int, zero_point: int) -> QuantSpec:
        """All of uint8, around a zero point."""
        return cls(exponent, -zero_point, STORAGE_MAX - zero_point, zero_point)

    @classmethod
    def for_range(cls, bits: int, log2_ymax: int, *, signed: bool) -> QuantSpec:
        """The grid for values up to `2**log2_ymax`: `l = log2(ymax) - b`, one less where a bit holds the sign."""
        return cls.signed(bits, log2_ymax - bits + 1) if signed else cls.unsigned(bits, log2_ymax - bits)

    def clipped(self, bound: float) -> QuantSpec:
        """The grid cut at 0 and at a bound (inf: none), which is rounded to it: a ReLU or ReLU6 of the integers."""
        top = self.qmax if math.isinf(bound) else min(self.qmax, round(bound / self.scale))
        return replace(self, qmin=max(self.qmin, 0), qmax=top)

    def refined(self, low: float, high: float) -> QuantSpec:
        """The grid of half the steps that holds numbers from low <= 0 to high >= 0, where 8 signed bits have one."""
        if not self.is_signed or self.bits != STORAGE_MAX.bit_length() or low == high:
            return self
        # What is left over is room on either side, in proportion; one that nothing was seen on has a little.
        zero_point = 2 * min(max(round(STORAGE_MAX * -low / (high - low) / 2), 1), STORAGE_MAX // 2)
        finer = QuantSpec.around(self.exponent - 1, zero_point)
        least, most = (finer.qmin - 0.5) * finer.scale, (finer.qmax + 0.5) * finer.scale
        return finer if least <= low and high <= most else self

    @property
    def grid(self) -> QuantSpec:
        """The grid of the codes that readers get: this one; a table has another (see `qpipe.arith.table`)."""
        return self

    @property
    def rounded_to(self) -> QuantSpec:
        """The grid that real numbers are rounded to: this one."""
        return self

    @property
    def reach(self) -> QuantSpec:
        """The grid with the range that codes can have: this one."""
        return self

    @property
    def scale(self) -> float:
        """Real units per integer step."""
        return 2.0**self.exponent

    @property
    def is_signed(self) -> bool:
        """Whether negative values are representable."""
        return self.qmin < 0

    @property
    def bits(self) -> int:
        """The width b of the narrowest range of its kind that holds this one."""
        if self.is_wide:
            return WIDE_BITS
        if self.zero_point in {0, SIGNED_ZERO_POINT}:
            return min(self.largest.bit_length() + self.is_signed, STORAGE_MAX.bit_length())
        return (self.qmax - self.qmin).bit_length()

    @property
    def is_wide(self) -> bool:
        """Whether its codes are uint16."""
        return self.stored_max > STORAGE_MAX

    @property
    def storage_bits(self) -> int:
        """Of its codes' type."""
        return WIDE_BITS if self.is_wide else 8

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its codes."""
        return np.dtype(np.uint16 if self.is_wide else np.uint8)

    @property
    def largest(self) -> int:
        """The largest magnitude of an integer."""
        return max(self.qmax, -self.qmin)

    @property
    def peak(self) -> int:
        """The same, but of a least integer of -2**b, which needs no bit more than b, one less."""
        return max(self.qmax, -self.qmin - 1)

    @property
    def log2_ymax(self) -> int:
        """Of the least power of two that no number of it exceeds by a step, as `for_range` takes it."""
        return self.exponent + self.peak.bit_length()

    @property
    def bound(self) -> float:
        """Where a ReLU6 cuts: the end of an unsigned range whose top is not all ones; infinite where it is."""
        is_bound = not self.is_signed and self.qmax & (self.qmax + 1) != 0
        return self.qmax * self.scale if is_bound else math.inf

    @property
    def stored_min(self) -> int:
        """Smallest code."""
        return self.qmin + self.zero_point

    @property
    def stored_max(self) -> int:
        """Largest code."""
        return self.qmax + self.zero_point

    @property
    def needs_clip(self) -> bool:
        """Whether the range is narrower than what its type saturates to by itself."""
        return not self.is_wide and (self.stored_min, self.stored_max) != (0, STORAGE_MAX)
