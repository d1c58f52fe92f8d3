"""Units of curves, `f(inner x) / outer`, taken back or as nodes: what only a note on f's node says.

A note is taken up by the node's table, and read by whatever asks the node for its function. A runtime does not: what it
is to run has a Mul before the node, and one behind it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.layers import group_layers
from qpipe.ir.graph.scale_groups import scale_groups
from qpipe.nodes import initializer, name_value
from qpipe.ops import set_units, units_of
from qpipe.ops.function import ONE, multiplication


def take_back_units(model: ir.Model) -> None:
    """Let the layers around curves count in the functions' own units again; what can't follow has nodes for them."""
    for group in scale_groups(group_layers(model.graph)):
        read = [units_of(layer.node).inner for layer in group.readers]
        given = [units_of(layer.node).outer for layer in group.writers]
        group.divide(1 / next((factor for factor in (*read, *given) if factor != 1), 1.0))
    units_to_nodes(model)


def units_to_nodes(model: ir.Model) -> None:
    """Let the graph's nodes compute what those of them that have units say; values keep their names."""
    graph = model.graph
    for node in [node for node in graph if units_of(node) != ONE]:
        units, source, result = units_of(node), node.inputs[0], node.outputs[0]
        set_units(node, ONE)
        assert source is not None
        if units.inner != 1:
            inner = _times(model, source, units.inner, f"{result.name}_inner")
            graph.insert_before(node, inner)
            node.replace_input_with(0, inner.outputs[0])
        if units.outer != 1:
            outer = _times(model, result, 1 / units.outer, f"{result.name}_outer")
            result.replace_all_uses_with(outer.outputs[0], replace_graph_outputs=True)
            outer.replace_input_with(0, result)
            result.name, outer.outputs[0].name = f"{result.name}_real", result.name
            graph.insert_after(node, outer)


def _times(model: ir.Model, source: ir.Value, factor: float, name: str) -> ir.Node:
    node = multiplication(source, initializer(model.graph, f"{name}_unit", np.float32(factor)), name)
    name_value(node.outputs[0], name, ir.TensorType(ir.DataType.FLOAT), source.shape)
    return node
