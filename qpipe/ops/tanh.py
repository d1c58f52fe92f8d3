"""Tanh: from -1 to 1."""

from __future__ import annotations

from qpipe.arith.namespace import A, namespace
from qpipe.ops.curve import CurveOp
from qpipe.ops.work import FUNCTION, NodeWork, Work


class Tanh(CurveOp):
    """Of the sign of its input."""

    op_types = ("Tanh",)
    cost = NodeWork(FUNCTION, backward=Work(multiply=2, add=1))

    def formula(self, x: A) -> A:
        """The library's own."""
        return namespace(x).tanh(x)
