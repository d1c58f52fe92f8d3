"""HardSwish: `x` times a line between 0 and 1."""

from __future__ import annotations

from qpipe.arith.namespace import A, namespace
from qpipe.ops.curve import CurveOp
from qpipe.ops.work import NodeWork, Work


class HardSwish(CurveOp):
    """`x HardSigmoid(x)` with the slope 1/6; it ends at -0.375."""

    op_types = ("HardSwish",)
    cost = NodeWork(Work(multiply=2, add=1, compare=2), backward=Work(multiply=2, add=1, compare=2))

    def formula(self, x: A) -> A:
        """`x min(max(x / 6 + 1/2, 0), 1)`."""
        return x * namespace(x).clip(x / 6.0 + 0.5, 0.0, 1.0)
