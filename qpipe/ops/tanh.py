"""Tanh: from -1 to 1."""

from __future__ import annotations

from typing import Any

from qpipe.ops.curve import CurveOp


class Tanh(CurveOp):
    """Of the sign of its input."""

    op_types = ("Tanh",)

    def formula(self, x: Any, xp: Any) -> Any:
        """Both libraries' own."""
        return xp.tanh(x)
