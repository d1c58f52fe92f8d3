"""Write a Div that has a constant as a Mul, where it leads to weights: its other operand has a table, or none.

    x / c  =  x (1 / c)      1 / c is rounded to float32, and is exact for powers of two
    c / y  =  c (1 / y)      the reciprocal of what is computed is a table, which has a number for 0 as well

What only leads to outputs stays: there it is float, and as it was. So does a constant by one number of each image: from
image to image it may differ by more than 8 bits tell apart, and its node is small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.edges import leading_to_weights
from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_array, initializer, name_value, static_shape
from qpipe.ops.constant_affine import constant_affine


@dataclass(frozen=True, kw_only=True)
class MultiplyByReciprocal(ir.passes.InPlacePass):
    """Each Div of floats; by a constant, if it has no zero and float32 has its reciprocals."""

    name: ClassVar[str] = "multiply-by-reciprocal"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        leading = leading_to_weights(model.graph)

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            return node.outputs[0] in leading and _try_replace(graph, node)

        return rewrite(model, {"Div"}, attempt)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    affine, divisor = constant_affine(node), node.inputs[1]
    name = str(node.name or node.outputs[0].name)
    if divisor is not None and constant_array(divisor) is None:
        if constant_array(node.inputs[0]) is None:
            return False
        if node.outputs[0].dtype != ir.DataType.FLOAT or _is_one_number(divisor):
            return False
        inverse = ir.node("Reciprocal", [divisor], name=f"{name}_reciprocal")
        name_value(inverse.outputs[0], f"{name}_inverse", ir.TensorType(ir.DataType.FLOAT), divisor.shape)
        product = ir.node("Mul", [node.inputs[0], inverse.outputs[0]], name=node.name)
        ir.convenience.replace_nodes_and_values(graph, node, [node], [inverse, product], node.outputs, product.outputs)
        return True
    if affine is None or not affine.fits_float32:
        return False
    factor = initializer(graph, f"{name}_reciprocal", affine.factor.astype(np.float32))
    new = ir.node("Mul", [affine.x, factor], name=node.name)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], node.outputs, new.outputs)
    return True


def _is_one_number(value: ir.Value) -> bool:
    """Whether it has one element for each image, or for all."""
    shape = static_shape(value)
    return shape is None or all(size == 1 for size in shape[1:])
