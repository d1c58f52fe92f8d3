"""Where the bits of stochastic rounding come from: a generator of its own for each tensor that is rounded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Role = Literal["weight", "activation", "error"]
"""What a tensor is to its convolution: W, A or E."""

PART_BITS = 16
"""A random part of a unit is a number of so many bits, sign included, divided by 2**16."""
_NUMBERS = 64 // PART_BITS
"""How many of them come from one draw."""
_ROW = 1024
"""Draws of a row of the pool."""


def generator_of(
    seed: int, update: int, batch: int, process: int, layer: str, role: Role, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The generator of one rounding: the same key always begins the same stream.

    So a checkpoint needs the counters alone. seed: the run's. update: weight updates so far. batch: of those whose
    gradients one update sums. process: its rank. layer, role: which tensor. torch's generator on CPUs takes 32 bits of
    a seed, so two of a run's many millions of keys may coincide, by chance.
    """
    import torch

    key = json.dumps([seed, update, batch, process, layer, role]).encode()
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))


@dataclass
class RandomParts:
    """Random parts of a unit, symmetric about 0, in the order in which they are taken.

    bits: of the random numbers, at most 15. A part is an odd number times `2**-(bits + 1)`, thus between -1/2 and 1/2
    and neither.

    Draws are what stochastic rounding costs most: torch makes them one after the other, on one core. So a pool is drawn
    with the first numbers, and what is taken later is the pool, each row XOR the same new row. Any three of all the
    numbers are independent and uniform; so mean and variance of whatever sums them are those of independent ones.
    """

    generator: torch.Generator
    bits: int
    _pool: torch.Tensor | None = field(default=None, init=False)

    def take(self, count: int) -> torch.Tensor:
        """So many parts, times 2**16: int16 `[count]`, not to be written to."""
        import torch

        rows = -(-count // (_ROW * _NUMBERS))
        if self._pool is None:
            taken = self._pool = self._odd(rows)
        else:
            if rows > len(self._pool):
                self._pool = torch.cat([self._pool, self._odd(rows - len(self._pool))])
            taken = self._pool[:rows] ^ self._drawn(1)
        return taken.view(torch.int16).view(-1)[:count]

    def _odd(self, rows: int) -> torch.Tensor:
        """New rows of the pool: the lowest bit that a number has is 1."""
        return self._drawn(rows) | _in_each(1 << PART_BITS - 1 - self.bits)

    def _drawn(self, rows: int) -> torch.Tensor:
        """New rows, with zeros where no number has a random bit."""
        import torch

        draws = torch.empty(rows, _ROW, dtype=torch.int64, device=self.generator.device)
        low = (1 << PART_BITS - self.bits) - 1
        return draws.random_(-(2**63), None, generator=self.generator).bitwise_and_(~_in_each(low))


def _in_each(pattern: int) -> int:
    """These bits in each number of a draw."""
    return sum(pattern << PART_BITS * place for place in range(_NUMBERS))
