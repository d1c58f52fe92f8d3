"""Make one Mul and one Add of a chain of constant Mul, Add, Sub, Div and Neg.

    f2 (f1 x + o1) + o2  =  (f2 f1) x + (f2 o1 + o2)

A Sub of a constant is an Add: `x - c = x + (-c)`, bit for bit. A Div alone stays, because its factor would be rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import Float64Array
from qpipe.ir.graph.rewrite import only_reader, rewrite
from qpipe.nodes import initializer, name_value
from qpipe.ops.constant_affine import OP_TYPES, ConstantAffine, constant_affine


@dataclass(frozen=True, kw_only=True)
class MergeAffine(ir.passes.InPlacePass):
    """Chains in which each map alone reads the one before, and whose constants become no larger together."""

    name: ClassVar[str] = "merge-affine"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Merge every chain, from its last node."""
        return rewrite(model, OP_TYPES, _try_merge)


def _try_merge(graph: ir.Graph, node: ir.Node) -> bool:
    affine = constant_affine(node)
    if affine is None or _continues(node):
        return False
    chain, total = [node], affine
    while (before := constant_affine(total.x.producer())) is not None and only_reader(total.x) is chain[0]:
        producer = total.x.producer()
        merged = before.then(total)
        if producer is None or producer.graph is not graph or _grows(merged, before, total) or not merged.fits_float32:
            break
        chain, total = [producer, *chain], merged
    if [link.op_type for link in chain] in (["Mul"], ["Add"], ["Mul", "Add"], ["Div"], ["Neg"]):
        return False
    _replace(graph, chain, total)
    return True


def _continues(node: ir.Node) -> bool:
    """Whether another map alone reads this one, so that the chain goes on."""
    return constant_affine(only_reader(node.outputs[0])) is not None


def _grows(merged: ConstantAffine, *parts: ConstantAffine) -> bool:
    def largest(affine: ConstantAffine) -> int:
        return max(affine.factor.size, affine.offset.size)

    return largest(merged) > max(map(largest, parts))


def _replace(graph: ir.Graph, chain: list[ir.Node], total: ConstantAffine) -> None:
    last = chain[-1]
    steps: list[tuple[str, Float64Array]] = [] if total.is_offset else [("Mul", total.factor)]
    if not total.is_factor or not steps:
        steps.append(("Add", total.offset))
    value, new = total.x, list[ir.Node]()
    output, name = last.outputs[0], str(last.name or last.outputs[0].name)
    for op_type, array in steps:
        constant = initializer(graph, f"{name}_{op_type.lower()}", array.astype(np.float32))
        new.append(ir.node(op_type, [value, constant], name=name))
        value = new[-1].outputs[0]
    if len(new) > 1:
        new[0].name = f"{name}_factor"
        name_value(new[0].outputs[0], f"{output.name}_factor", ir.TensorType(ir.DataType.FLOAT), output.shape)
    ir.convenience.replace_nodes_and_values(graph, last, chain, new, last.outputs, new[-1].outputs)
