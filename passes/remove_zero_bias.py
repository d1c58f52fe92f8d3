"""Remove the bias of a Conv where it is zero throughout: torch's exporter gives one to every Conv that has none.

Conv(x, w, 0) = Conv(x, w). (onnxscript's rule does the same, but loses the node's name.)
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.nodes import constant_input


@dataclass(frozen=True, kw_only=True)
class RemoveZeroBias(ir.passes.InPlacePass):
    """The bias input of a Conv goes where it is a constant of zeros."""

    name: ClassVar[str] = "remove-zero-bias"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove every match; the initializer stays for dead-code removal."""
        modified = False
        for node in model.graph:
            if node.op_type == "Conv" and node.domain == "":
                bias = constant_input(node, 2)
                if bias is not None and not bias.any():
                    node.resize_inputs(2)
                    modified = True
        return ir.passes.PassResult(model, modified)
