"""SiLU, also called Swish: `x Sigmoid(x)`. ONNX has no op for it at our opset, so it is a function of our domain.

`recognize-activations` makes one node of those that exporters write; calibration takes it away again, or apart where it
stays float.
"""

from __future__ import annotations

from typing import Final

import onnx_ir as ir
from onnx_ir.passes import common

from qpipe.arith.namespace import A, namespace
from qpipe.nodes import DOMAIN
from qpipe.ops.curve import CurveOp
from qpipe.ops.work import FUNCTION, NodeWork, Work

NAME: Final = "SiLU"


class SiLU(CurveOp):
    """It ends at -0.28."""

    op_types = (NAME,)
    cost = NodeWork(FUNCTION + Work(multiply=3, add=1), backward=Work(multiply=2, add=2))
    domains = frozenset({DOMAIN})

    def formula(self, x: A) -> A:
        """`x (1 + tanh(x / 2)) / 2`."""
        return x * (0.5 + 0.5 * namespace(x).tanh(0.5 * x))

    def define(self, model: ir.Model) -> None:
        """The function, in standard operators."""
        x = ir.Value(name="x")
        sigmoid = ir.node("Sigmoid", [x], outputs=[ir.Value(name="s")])
        product = ir.node("Mul", [x, sigmoid.outputs[0]], outputs=[ir.Value(name="y")])
        imports = {"": model.opset_imports[""]}
        body = ir.Graph([x], product.outputs, nodes=[sigmoid, product], opset_imports=imports)
        function = ir.Function(DOMAIN, NAME, graph=body, attributes=[])
        model.functions.setdefault(function.identifier(), function)
        model.opset_imports[DOMAIN] = 1


def inline_silu(model: ir.Model) -> None:
    """Take those apart that are left, and forget the function."""
    common.InlinePass(criteria=lambda function: (function.domain, function.name) == (DOMAIN, NAME))(model)
    if not any(domain == DOMAIN for domain, _, _ in model.functions):
        model.opset_imports.pop(DOMAIN, None)
