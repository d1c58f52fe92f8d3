"""Bytes of every value of a graph at a batch size, by shape inference.

Shapes that the graph computes, as exporters write a Reshape's target or a Pad's widths, are folded on the way.
"""

from __future__ import annotations

import math
from typing import Final

import onnx_ir as ir

from qpipe.ir.files.infer import infer_shapes
from qpipe.ir.files.quiet import quiet
from qpipe.nodes import MICROSOFT, int_attribute
from qpipe.ops import STANDARD_FORMS

# Folding one constant can make the next one's shape known.
_ROUNDS: Final = 4


def value_sizes(model: ir.Model, batch_size: int = 1) -> dict[str, int]:
    """Bytes by name of all inputs and computed values; a value whose type or shape is unknown is left out.

    batch_size: what an open batch dimension, the first of an input, is taken for. The model stays as it was.
    """
    from onnxscript.optimizer import fold_constants_ir

    copy = model.clone()
    _close_batch(copy.graph, batch_size)
    for node in copy.graph:
        _standardize(node)
    found: dict[str, int] = {}
    for _ in range(_ROUNDS):
        with quiet("onnx_ir", "onnxscript"):
            # Types are not checked, because a standard form need not know the integers of its original.
            infer_shapes(copy, check_type=False)
            # Before folding, which takes values away.
            sizes = {str(value.name): _bytes(value) for value in _values(copy.graph)}
            found |= {name: size for name, size in sizes.items() if size is not None}
            if not fold_constants_ir(copy, should_fold=_should_fold).modified:
                break
    return found


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]


def _close_batch(graph: ir.Graph, batch_size: int) -> None:
    """Put the number in the place of an open first dimension of an input, wherever it stands by its name."""
    opened = [value.shape[0] for value in graph.inputs if value.shape and not isinstance(value.shape[0], int)]
    names = {dim.value for dim in opened if isinstance(dim, ir.SymbolicDim) and dim.value is not None}
    for value in _values(graph):
        if value.shape is None:
            continue
        dims: list[int | ir.SymbolicDim] = [
            batch_size if isinstance(dim, ir.SymbolicDim) and dim.value in names else dim for dim in value.shape
        ]
        if value.is_graph_input() and dims and not isinstance(dims[0], int):
            dims[0] = batch_size
        value.shape = ir.Shape(dims)


def _standardize(node: ir.Node) -> None:
    """Make an operator that only onnxruntime knows one of the same shapes that inference knows."""
    if node.domain != MICROSOFT or node.op_type not in STANDARD_FORMS:
        return
    if int_attribute(node, "channels_last", 0):
        return
    form = STANDARD_FORMS[node.op_type]
    inputs = node.inputs[form.data]
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)
    node.op_type, node.domain = form.standard, ""


def _should_fold(node: ir.Node) -> bool | None:
    """None leaves it to onnxscript, which keeps a ConstantOfShape: exporters fill a Pad's widths up with one."""
    return True if node.op_type == "ConstantOfShape" else None


def _bytes(value: ir.Value) -> int | None:
    """None where the type, or a dimension, is unknown."""
    if value.shape is None or value.dtype is None or value.dtype == ir.DataType.STRING:
        return None
    if not all(isinstance(dim, int) for dim in value.shape):
        return None
    return math.ceil(math.prod(value.shape.numpy()) * value.dtype.bitwidth / 8)
