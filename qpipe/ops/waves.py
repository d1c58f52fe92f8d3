"""Sin and Cos."""

from __future__ import annotations

from collections.abc import Sequence

from qpipe.arith.namespace import A, namespace
from qpipe.ops.curve import LateCurve
from qpipe.ops.work import FUNCTION, NodeWork, Work


class Sin(LateCurve):
    """From -1 to 1."""

    op_types = ("Sin",)
    cost = NodeWork(FUNCTION, backward=FUNCTION + Work(multiply=1))

    def formula(self, x: A) -> A:
        """The library's own."""
        return namespace(x).sin(x)

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """Either."""
        return True


class Cos(LateCurve):
    """From -1 to 1."""

    op_types = ("Cos",)
    cost = NodeWork(FUNCTION, backward=FUNCTION + Work(multiply=1))

    def formula(self, x: A) -> A:
        """The library's own."""
        return namespace(x).cos(x)

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """Either."""
        return True
