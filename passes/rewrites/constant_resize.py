"""Give a Resize constant factors for all axes, where its sizes are computed or only some axes are named.

    Resize(x [N, 8, 16, 16], sizes = Concat(Shape(x)[:2], [32, 32]))  =  Resize(x, scales = [1, 1, 2, 2])
    Resize<axes = [2, 3]>(x, scales = [2, 2])                         =  Resize(x, scales = [1, 1, 2, 2])

TensorFlow's exporters compute sizes for the sake of an open batch, which stays as it is. (onnxruntime's layout
optimizer breaks a Resize that names axes.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_input, initializer, input_value, ints_attribute, static_shape, string_attribute


@dataclass(frozen=True, kw_only=True)
class ConstantResize(ir.passes.InPlacePass):
    """Every Resize of known sizes, but of the batch, whose factors give these sizes in float32."""

    name: ClassVar[str] = "constant-resize"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every match; what computed the sizes is left to dead-code removal."""
        return rewrite(model, {"Resize"}, _try_make_constant)


def _try_make_constant(graph: ir.Graph, node: ir.Node) -> bool:
    has_sizes = input_value(node, 3) is not None
    if "axes" not in node.attributes and not (has_sizes and constant_input(node, 3) is None):
        return False
    if string_attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    factors = _by_size(node) if has_sizes else _by_axis(node)
    if factors is None:
        return False
    node.resize_inputs(3)
    # Without the empty list that stands for no region.
    node.replace_input_with(1, None)
    node.replace_input_with(2, initializer(graph, f"{node.outputs[0].name}_scales", factors))
    node.attributes.pop("axes", None)
    return True


def _by_size(node: ir.Node) -> npt.NDArray[np.float32] | None:
    """Of the sizes of operand and result; None where one is unknown, or the factor would give another."""
    source, result = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    if source is None or result is None or len(source) != len(result):
        return None
    factors = [np.float32(1)]
    for size, new in zip(source[1:], result[1:], strict=True):
        if not size or not new:
            return None
        factor = np.float32(new) / np.float32(size)
        if int(factor * np.float32(size)) != new:
            return None
        factors.append(factor)
    return np.array(factors)


def _by_axis(node: ir.Node) -> npt.NDArray[np.float32] | None:
    """Of the factors of some axes; None where these are not known."""
    shape, given = static_shape(node.inputs[0]), constant_input(node, 2)
    if shape is None or given is None:
        return None
    factors = np.ones(len(shape), np.float32)
    factors[[axis % len(shape) for axis in ints_attribute(node, "axes", ())]] = given
    return factors
