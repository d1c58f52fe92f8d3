"""Sizes of a graph's values, corrected where inference errs."""

from __future__ import annotations

import onnx_ir as ir

from qpipe.ir.files.infer import infer_shapes
from qpipe.nodes import static_shape, window
from qpipe.ops.windows import image_sizes, positions


def correct_size(model: ir.Model, node: ir.Node) -> bool:
    """Give a Conv's or a pool's result the size that its explicit pads say; what follows is inferred again.

    Whether it had another: onnx's inference has with `ceil_mode`, and with SAME where the stride is over the kernel.
    """
    found, sizes, said = window(node), image_sizes(node), static_shape(node.outputs[0])
    if sizes is None or len(sizes) != len(found.kernel):
        return False
    true = tuple(positions(found, found.pads, i, size) for i, size in enumerate(sizes))
    if said is not None and said[2:] == true:
        return False
    old = {value: value.shape for later in _behind(model.graph, node) for value in later.outputs}
    for value in old:
        value.shape = None
    infer_shapes(model)
    # The checker wants an output to have one.
    for value in model.graph.outputs:
        value.shape = value.shape or old.get(value)
    return True


def _behind(graph: ir.Graph, node: ir.Node) -> list[ir.Node]:
    """The node and all that hang on it, in order."""
    found: dict[ir.Node, None] = {node: None}
    for later in graph:
        if any(value is not None and value.producer() in found for value in later.inputs):
            found[later] = None
    return list(found)
