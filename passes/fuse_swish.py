"""Make one node of an activation that exporters write as two: a value times a gate that is computed from it.

    x Sigmoid(x)                            becomes   SiLU(x), a function of our domain (see `qpipe.ops.silu`)
    x HardSigmoid(x), slope 1/6, at 1/2     becomes   HardSwish(x)

Alone each product of two activations would have no integer form; as functions of one number both are tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import DOMAIN, float_attribute
from qpipe.ops.silu import NAME, SiLU


@dataclass(frozen=True, kw_only=True)
class FuseSwish(ir.passes.InPlacePass):
    """Mul of a value and its own Sigmoid or HardSigmoid, in any order; whoever else reads the gate keeps it."""

    name: ClassVar[str] = "fuse-swish"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        return rewrite(model, {"Mul"}, lambda _, node: _try_fuse(model, node))


def _try_fuse(model: ir.Model, product: ir.Node) -> bool:
    for x, gated in (tuple(product.inputs), tuple(reversed(product.inputs))):
        gate = None if gated is None else gated.producer()
        if x is None or gate is None or gate.domain != "" or gate.graph is not product.graph or gate.inputs[0] is not x:
            continue
        if gate.op_type == "Sigmoid":
            SiLU().define(model)
            fused = ir.node(NAME, [x], domain=DOMAIN, name=product.name)
        elif gate.op_type == "HardSigmoid" and _is_of_swish(gate):
            fused = ir.node("HardSwish", [x], name=product.name)
        else:
            continue
        ir.convenience.replace_nodes_and_values(
            model.graph, product, [product], [fused], product.outputs, fused.outputs
        )
        return True
    return False


def _is_of_swish(gate: ir.Node) -> bool:
    # The file has it in float32.
    slope, middle = float_attribute(gate, "alpha", 0.2), float_attribute(gate, "beta", 0.5)
    return math.isclose(slope, 1 / 6, rel_tol=1e-6) and middle == 0.5
