"""HardSigmoid: a line between 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qpipe.ops.curve import CurveOp


class HardSigmoid(CurveOp):
    """`min(max(alpha x + beta, 0), 1)`."""

    op_types = ("HardSigmoid",)
    defaults = (("alpha", 0.2), ("beta", 0.5))

    def formula(self, x: Any, xp: Any, alpha: float = 0.2, beta: float = 0.5) -> Any:
        """The line, clipped."""
        return xp.clip(alpha * x + beta, 0.0, 1.0)

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """It is not negative."""
        return False
