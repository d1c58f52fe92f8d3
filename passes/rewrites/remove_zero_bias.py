"""Remove the bias of a Conv where it is zero throughout: torch's exporter gives one to every Conv that has none.

Conv(x, w, 0) = Conv(x, w). (onnxscript's rule does the same, but loses the node's name.)
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_input


@dataclass(frozen=True, kw_only=True)
class RemoveZeroBias(ir.passes.InPlacePass):
    """The bias input of a Conv goes where it is a constant of zeros."""

    name: ClassVar[str] = "remove-zero-bias"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove every match; the initializer stays for dead-code removal."""
        return rewrite(model, {"Conv"}, _try_remove)


def _try_remove(_: ir.Graph, conv: ir.Node) -> bool:
    bias = constant_input(conv, 2)
    if bias is None or bias.any():
        return False
    conv.resize_inputs(2)
    return True
