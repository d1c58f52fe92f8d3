"""Give a layer with weights more channels, at the end of those that it has, of weights that are zero."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.layers import Layer
from qpipe.nodes import constant_input, group_count, require_constant, set_constant_input
from qpipe.ops import product_of
from qpipe.ops.weight_layout import is_depthwise

_NORMAL = (1.0, 0.0, 0.0, 1.0)
"""gamma, beta, mean and variance of a channel that a normalization leaves as it is, but for its epsilon."""


def widen(layer: Layer, outputs: int, inputs: int) -> None:
    """So many more output channels, and input channels; of a depthwise layer, as many groups as outputs.

    A network is whole again when what reads the layer has as many inputs more.
    """
    node, axis = layer.node, product_of(layer.node).output_axis(layer.node)
    weight = require_constant(node, 1, "weight")
    more = [(0, 0)] * weight.ndim
    more[axis] = (0, outputs)
    if is_depthwise(node):
        # Each reads one channel; only as long as the attribute is the old one is that what the node is.
        groups = group_count(node) + outputs
        set_constant_input(node, 1, np.pad(weight, more))
        node.attributes["group"] = ir.AttrInt64("group", groups)
    else:
        more[1 - axis] = (0, inputs)
        set_constant_input(node, 1, np.pad(weight, more))
    if not outputs:
        return
    bias = constant_input(node, 2)
    if bias is not None:
        whole = bias.reshape(-1) * np.ones(weight.shape[axis], bias.dtype)
        set_constant_input(node, 2, np.pad(whole, (0, outputs)))
    if layer.batch_norm is not None:
        for index, number in enumerate(_NORMAL, 1):
            array = require_constant(layer.batch_norm, index, "parameter")
            set_constant_input(layer.batch_norm, index, np.pad(array, (0, outputs), constant_values=number))
    for value in (each.outputs[0] for each in layer.nodes):
        _grow(value, product_of(node).channel_axis, outputs)


def _grow(value: ir.Value, axis: int, by: int) -> None:
    """What is said of a value's shape."""
    if value.shape is None:
        return
    dims = list(value.shape.dims)
    size = dims[axis]
    if isinstance(size, int):
        dims[axis] = size + by
    value.shape = ir.Shape(dims)
