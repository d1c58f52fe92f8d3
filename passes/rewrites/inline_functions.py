"""Replace calls of model-local functions by their bodies, so that passes see plain ops.

qpipe's own functions stay: they are training's quantizers, and are nodes to the passes. What bears the name of one of
them and has another body is none.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from qpipe.ir.graph.functions import is_own


@dataclass(frozen=True, kw_only=True)
class InlineFunctions(ir.passes.InPlacePass):
    """Every function that is not qpipe's own is inlined and removed."""

    name: ClassVar[str] = "inline-functions"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Inline all calls, nested ones too."""
        own = {name for name, function in model.functions.items() if is_own(model, function)}
        return common.InlinePass(criteria=lambda function: function.identifier() not in own)(model)
