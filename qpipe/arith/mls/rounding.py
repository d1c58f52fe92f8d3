"""Rounding to the grid of an element format, in place: float32's own additions and fields do it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qpipe.arith.mls.formats import FLOAT_MANTISSA, ElementFormat, Overflow
from qpipe.arith.mls.generators import RANDOM_BITS, RandomBits

_EXPONENT_FIELD = 0x7F800000
_ROUNDS = 1.5 * 2.0**FLOAT_MANTISSA
"""So many units, added and subtracted again, round a number to a unit, half to even: no float there is finer."""


@dataclass(frozen=True)
class Rounding:
    """How numbers become elements. bits: of stochastic rounding (equation 4); None: to nearest, half to even.

    A unit is how far the grid's numbers lie apart around a number: `b * 2**-M`, b the power of two at or below it,
    within the exponents of normal numbers. A tie goes to the even multiple of the unit. Stochastic rounding first adds
    a random part r of the unit, `(2k + 1) / 2**17 - 1/2` with k of 16 random bits: r is symmetric and never half a
    unit, so that a number of the grid stays what it is. (At 7 and 8 bits of mantissa k has 15 and 14 bits, so that a
    sum of a number of the grid and a part of its unit stays exact.)
    """

    element: ElementFormat
    overflow: Overflow
    bits: RandomBits | None

    def round_(self, t: torch.Tensor) -> torch.Tensor:
        """Round a contiguous tensor in place, in the order of its memory."""
        element, noise = self.element, self._noise(t)
        limit = self._limit(t) if self.overflow == "clip" and element.exponent else None
        if element.fixed_point:
            unit = 2.0**element.unit
            if noise is not None:
                t.add_(noise, alpha=unit * self._part)
            t.add_(_ROUNDS * unit).sub_(_ROUNDS * unit)
        else:
            base = _power_of_two(t).clamp_(2.0**element.smallest_exponent, 0.5)
            per_base = 2.0**-element.mantissa
            if noise is not None:
                t.addcmul_(noise, base, value=per_base * self._part)
            t.add_(base, alpha=_ROUNDS * per_base).sub_(base, alpha=_ROUNDS * per_base)
        if limit is not None:
            torch.minimum(torch.maximum(t, -limit, out=t), limit, out=t)
        return t.clamp_(-element.largest, element.largest)

    @property
    def dropped(self) -> int:
        """How many of the random bits a sum could not hold."""
        return max(RANDOM_BITS - (FLOAT_MANTISSA - 1 - self.element.mantissa), 0)

    @property
    def _part(self) -> float:
        return 2.0 ** (self.dropped - RANDOM_BITS)

    def _noise(self, t: torch.Tensor) -> torch.Tensor | None:
        """For each number the part of a unit, times a power of two."""
        if self.bits is None:
            return None
        k = self.bits.take(t.numel())
        return torch.add(k >> self.dropped if self.dropped else k, 0.5).view_as(t)

    def _limit(self, t: torch.Tensor) -> torch.Tensor:
        """The largest number with the exponent that a number has before it is rounded (Algorithm 1, line 13)."""
        base, last = _power_of_two(t), 2.0**-self.element.mantissa
        smallest = 2.0**self.element.smallest_exponent
        return torch.where(base >= smallest, base.clamp(max=0.5) * (2 - last), smallest * (1 - last))


def _power_of_two(t: torch.Tensor) -> torch.Tensor:
    """The largest power of two that is not above |t|; 0 of a subnormal number."""
    return (t.view(torch.int32) & _EXPONENT_FIELD).view(torch.float32)
