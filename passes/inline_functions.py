"""Replace calls of model-local functions by their bodies, so that passes see plain ops.

The functions of the domain `qpipe` stay: they are training's quantizers, and are nodes to the passes.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common


@dataclass(frozen=True, kw_only=True)
class InlineFunctions(ir.passes.InPlacePass):
    """Every function of another domain than `qpipe` is inlined and removed."""

    name: ClassVar[str] = "inline-functions"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Inline all calls, nested ones too."""
        return common.InlinePass(criteria=lambda function: function.domain != "qpipe")(model)
