"""Rounding to the grid of an element format, in place: float32's own additions and fields do it.

Its passes, of ⟨2, 1⟩ and stochastic: read the exponent field, clamp it, take random bits, convert them, add them in
parts of a unit, add and subtract what rounds, clamp. Buffers are made once and stay in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from qpipe.arith.mls.formats import FLOAT_MANTISSA, ElementFormat, Overflow
from qpipe.arith.mls.generators import PART_BITS, RandomParts

_EXPONENT_FIELD = 0x7F800000
_ROUNDS = 1.5 * 2.0**FLOAT_MANTISSA
"""So many units, added and subtracted again, round a number to a unit, half to even: no float there is finer."""


@dataclass
class Rounding:
    """How numbers become elements. generator: of stochastic rounding (equation 4); None: to nearest, half to even.

    A unit is how far the grid's numbers lie apart around a number: `b * 2**-M`, b the power of two at or below it,
    within the exponents of normal numbers. A tie goes to the even multiple of the unit. Stochastic rounding adds a
    random part of the unit first, which is never half of it, so that a number of the grid stays what it is.
    """

    element: ElementFormat
    overflow: Overflow
    generator: torch.Generator | None
    _buffers: dict[str, torch.Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._parts = None if self.generator is None else RandomParts(self.generator, part_bits(self.element))

    def round_(self, t: torch.Tensor) -> torch.Tensor:
        """Round a contiguous tensor in place; random parts are taken in the order of its memory."""
        element, parts = self.element, self._random_parts(t)
        clipped = self.overflow == "clip" and element.exponent > 0
        limit = self._limit(t) if clipped else None
        if element.fixed_point:
            unit = 2.0**element.unit
            if parts is not None:
                t.add_(parts, alpha=unit * 2.0**-PART_BITS)
            t.add_(_ROUNDS * unit).sub_(_ROUNDS * unit)
        else:
            base = self._base(t).clamp_(2.0**element.smallest_exponent, 0.5)
            unit = 2.0**-element.mantissa
            if parts is not None:
                t.addcmul_(parts, base, value=unit * 2.0**-PART_BITS)
            t.add_(base, alpha=_ROUNDS * unit).sub_(base, alpha=_ROUNDS * unit)
        if limit is not None:
            # 0 - 0 is a positive zero, as all zeros are; -0 is none.
            torch.minimum(torch.maximum(t, 0 - limit, out=t), limit, out=t)
        return t.clamp_(-element.largest, element.largest)

    def _buffer(self, name: str, t: torch.Tensor) -> torch.Tensor:
        """Room for as many float32 as t has, with its axes."""
        found = self._buffers.get(name)
        if found is None or found.numel() < t.numel():
            found = self._buffers[name] = torch.empty(t.numel(), device=t.device)
        return found[: t.numel()].view_as(t)

    def _random_parts(self, t: torch.Tensor) -> torch.Tensor | None:
        if self._parts is None:
            return None
        return self._buffer("parts", t).copy_(self._parts.take(t.numel()).view_as(t))

    def _base(self, t: torch.Tensor) -> torch.Tensor:
        """The largest power of two that is not above |t|; 0 of a subnormal number."""
        base = self._buffer("base", t)
        torch.bitwise_and(t.view(torch.int32), _EXPONENT_FIELD, out=base.view(torch.int32))
        return base

    def _limit(self, t: torch.Tensor) -> torch.Tensor:
        """The largest number with the exponent that a number has before it is rounded (Algorithm 1, line 13)."""
        base, last = self._base(t), 2.0**-self.element.mantissa
        smallest = 2.0**self.element.smallest_exponent
        return torch.where(base >= smallest, base.clamp(max=0.5) * (2 - last), smallest * (1 - last))


def part_bits(element: ElementFormat) -> int:
    """How many random bits a sum of a number of the grid and a part of its unit holds exactly, up to 15."""
    return min(PART_BITS, FLOAT_MANTISSA - element.mantissa) - 1
