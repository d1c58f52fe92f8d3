"""Where the bits of stochastic rounding come from: a generator of its own for each tensor that is rounded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Role = Literal["weight", "activation", "error"]
"""What a tensor is to its convolution: W, A or E."""

RANDOM_BITS = 16
"""Of one number's rounding."""


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


@dataclass(frozen=True)
class RandomBits:
    """A generator's bits, in the order in which they are taken."""

    generator: torch.Generator

    def take(self, count: int) -> torch.Tensor:
        """So many independent, uniform int16 `[count]`; four come from one draw."""
        import torch

        draws = torch.empty(-(-count // 4), dtype=torch.int64, device=self.generator.device)
        return draws.random_(-(2**63), None, generator=self.generator).view(torch.int16)[:count]
