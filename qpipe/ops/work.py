"""How many operations an op takes for each element of its result, beside a product's multiply-accumulates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Work:
    """Multiplications, additions (a subtraction is one) and comparisons, all of the number format of the result."""

    multiply: int = 0
    add: int = 0
    compare: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.multiply + other.multiply, self.add + other.add, self.compare + other.compare)


NO_WORK: Final = Work()
FUNCTION: Final = Work(multiply=5, add=5)
"""An exponential, a hyperbolic tangent, a division: a polynomial of degree 5, by Horner's rule."""


@dataclass(frozen=True)
class NodeWork:
    """For each element of a result. forward: of inference. training: of training's forward pass, None: as inference.

    backward: of the gradients of the operands and of what is trained.
    """

    forward: Work = NO_WORK
    training: Work | None = None
    backward: Work = NO_WORK

    @property
    def training_forward(self) -> Work:
        """Of training's forward pass."""
        return self.forward if self.training is None else self.training
