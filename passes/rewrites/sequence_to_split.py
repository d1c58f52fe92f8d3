"""Take a sequence that is split off, and read at places that are known, for a Split.

    SequenceAt(SplitToSequence(x, sizes), 1)  =  Split(x, sizes)[1]                along the axis, bit for bit

PyTorch's dynamo exporter writes `split` and `chunk` so. Source: ONNX operator specification, SplitToSequence-11.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_input, initializer, input_value, int_attribute, static_shape


@dataclass(frozen=True, kw_only=True)
class SequenceToSplit(ir.passes.InPlacePass):
    """Every SplitToSequence that keeps its axis, of constant sizes, which SequenceAt reads at constant places."""

    name: ClassVar[str] = "sequence-to-split"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        return rewrite(model, {"SplitToSequence"}, _try_replace)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    x, shape, readers = node.inputs[0], static_shape(node.inputs[0]), [use.node for use in node.outputs[0].uses()]
    if x is None or shape is None or node.outputs[0].is_graph_output():
        return False
    axis = int_attribute(node, "axis", 0) % len(shape)
    sizes = _sizes(node, shape[axis])
    if sizes is None:
        return False
    places = [_place(reader, graph, len(sizes)) for reader in readers]
    if None in places:
        return False
    name = node.name or str(node.outputs[0].name)
    lengths = initializer(graph, f"{name}_sizes", np.array(sizes, np.int64))
    split = ir.node("Split", [x, lengths], {"axis": axis}, name=name, num_outputs=len(sizes))
    for size, part in zip(sizes, split.outputs, strict=True):
        part.type, part.name = x.type, f"{name}_{len(graph)}_{part.index()}"
        part.shape = None if x.shape is None else ir.Shape([*x.shape.dims[:axis], size, *x.shape.dims[axis + 1 :]])
    graph.insert_before(node, split)
    for reader, place in zip(readers, places, strict=True):
        assert place is not None
        result, part = reader.outputs[0], split.outputs[place]
        if result.is_graph_output():
            identity = ir.node("Identity", [part], name=reader.name)
            ir.convenience.replace_nodes_and_values(graph, reader, [reader], [identity], [result], identity.outputs)
        else:
            result.replace_all_uses_with(part)
            graph.remove(reader, safe=True)
    graph.remove(node, safe=True)
    return True


def _sizes(node: ir.Node, length: int | None) -> list[int] | None:
    """Of each part; None where they are computed, hang on an axis of unknown length, or the axis is dropped."""
    if input_value(node, 1) is None:
        # Parts of one element; the axis is kept where that is said.
        return [1] * length if length is not None and int_attribute(node, "keepdims", 1) else None
    constant = constant_input(node, 1)
    if constant is None:
        return None
    if constant.ndim:
        return [int(size) for size in constant]
    size = int(constant)
    return None if length is None or size < 1 else [min(size, length - start) for start in range(0, length, size)]


def _place(reader: ir.Node, graph: ir.Graph, count: int) -> int | None:
    """Which part a node reads; None where it is none, or not known."""
    place = constant_input(reader, 1) if reader.op_type == "SequenceAt" and reader.graph is graph else None
    if place is None or place.size != 1 or not -count <= int(place.reshape(-1)[0]) < count:
        return None
    return int(place.reshape(-1)[0]) % count
