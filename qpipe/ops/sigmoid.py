"""Sigmoid: `1 / (1 + exp(-x))`, from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence

from qpipe.arith.namespace import A, namespace
from qpipe.ops.curve import CurveOp
from qpipe.ops.forms import StandardForm
from qpipe.ops.work import FUNCTION, NodeWork, Work


class Sigmoid(CurveOp):
    """Written with tanh, which overflows nowhere, nor does its gradient."""

    op_types = ("Sigmoid",)
    cost = NodeWork(FUNCTION + Work(multiply=2, add=1), backward=Work(multiply=2, add=1))
    standard_forms = (StandardForm("QLinearSigmoid", "Sigmoid", slice(0, 1)),)

    def formula(self, x: A) -> A:
        """`(1 + tanh(x / 2)) / 2`."""
        return 0.5 + 0.5 * namespace(x).tanh(0.5 * x)

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """It is positive."""
        return False
