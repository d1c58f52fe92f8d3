"""HardSigmoid: a line between 0 and 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from qpipe.arith.namespace import A, namespace
from qpipe.ops.curve import CurveOp
from qpipe.ops.work import NodeWork, Work


class HardSigmoid(CurveOp):
    """`min(max(alpha x + beta, 0), 1)`."""

    op_types = ("HardSigmoid",)
    cost = NodeWork(Work(multiply=1, add=1, compare=2), backward=Work(multiply=1, compare=2))
    defaults = (("alpha", 0.2), ("beta", 0.5))

    def formula(self, x: A, alpha: float = 0.2, beta: float = 0.5) -> A:
        """The line, clipped."""
        return namespace(x).clip(alpha * x + beta, 0.0, 1.0)

    def flat_beyond(self, numbers: Mapping[str, float]) -> float:
        """Where the line has left 0 to 1."""
        alpha, beta = numbers["alpha"], numbers["beta"]
        return max(abs(beta), abs(1 - beta)) / abs(alpha) if alpha else math.inf

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """It is not negative."""
        return False
