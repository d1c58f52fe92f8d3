"""LeakyRelu: a line, of a smaller slope below 0."""

from __future__ import annotations

from qpipe.arith.namespace import A, namespace
from qpipe.ops.base import StandardForm
from qpipe.ops.curve import CurveOp


class LeakyRelu(CurveOp):
    """`x`, or `alpha x` where x is negative."""

    op_types = ("LeakyRelu",)
    standard_forms = (StandardForm("QLinearLeakyRelu", "LeakyRelu", slice(0, 1)),)
    defaults = (("alpha", 0.01),)

    def formula(self, x: A, alpha: float = 0.01) -> A:
        """One of two lines."""
        return namespace(x).where(x < 0, alpha * x, x)
