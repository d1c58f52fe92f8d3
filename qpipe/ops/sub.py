"""Sub: the difference of two activations, or of one and a constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.ops.add import Add
from qpipe.ops.work import NodeWork, Work

if TYPE_CHECKING:
    import torch


class Sub(Add):
    """An Add whose second operand has the other sign; no residual block ends in it."""

    op_types = ("Sub",)
    standard_forms = ()
    is_sum = False
    signs = (1, -1)

    def ends_float(self, node: ir.Node) -> bool:
        """It does."""
        return True

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """Any."""
        return True

    def work(self, node: ir.Node) -> NodeWork:
        """The second operand's gradient has the other sign."""
        return NodeWork(Work(add=1), backward=Work(multiply=1))

    def combine(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """`a - b`."""
        return a - b
