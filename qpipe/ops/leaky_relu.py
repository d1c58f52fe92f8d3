"""LeakyRelu: a line, of a smaller slope below 0."""

from __future__ import annotations

from qpipe.arith.namespace import A, namespace
from qpipe.ops.curve import CurveOp
from qpipe.ops.forms import StandardForm
from qpipe.ops.work import NodeWork, Work


class LeakyRelu(CurveOp):
    """`x`, or `alpha x` where x is negative."""

    op_types = ("LeakyRelu",)
    homogeneous = True
    cost = NodeWork(Work(multiply=1, compare=1), backward=Work(multiply=1, compare=1))
    standard_forms = (StandardForm("QLinearLeakyRelu", "LeakyRelu", slice(0, 1)),)
    defaults = (("alpha", 0.01),)

    def formula(self, x: A, alpha: float = 0.01) -> A:
        """One of two lines."""
        return namespace(x).where(x < 0, alpha * x, x)
