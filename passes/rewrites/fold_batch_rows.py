"""Take one row of a constant that a graph expands to as many rows as the batch has: a class token, a mask.

    Concat(Expand(c, [N, 1, C]), x)  =  Pad(x) + [c, 0]             (`pad-for-constants`)
    Expand(c, [N, 1, C]) * x         =  c * x                       and what else broadcasts
    MatMul(Expand(c, [N, T, K]), x)  =  MatMul(c, x)                attention of queries that are the same for all
    Tile(c [k, ...], [N, 1, ...]) * x [k N, ...]  =  Reshape(c * Reshape(x, [N, k, ...]), [k N, ...])

The last is a mask of k windows or heads, which lie side by side in the batch (Swin, DeBERTa). The graph is folded with
a batch of 3 and with one of 7: what is a constant in both, of equal rows, as many as the batch, is one row for all.
Only constants are folded, so nothing that hangs on data is taken for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from passes.rewrites.fold_constants import FoldConstants
from passes.rewrites.pad_for_constants import pad_for
from qpipe.arith.namespace import AnyArray
from qpipe.ir.graph.rewrite import Steps
from qpipe.nodes import constant_array, initializer, static_shape

_BATCHES: Final = (3, 7)
_SIZES: Final = frozenset({"Shape", "Size"})
_BROADCASTING: Final = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "MatMul"})
_ROUNDINGS: Final = 1e-5
"""Of float32, against the largest number: how a product sums its rows hangs on how many there are."""


@dataclass(frozen=True, kw_only=True)
class FoldBatchRows(ir.passes.InPlacePass):
    """In a graph that asks for sizes, whose inputs' first dimensions alone are open, all by one name."""

    name: ClassVar[str] = "fold-batch-rows"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match; what expanded it is left to dead-code removal."""
        asks = any(node.op_type in _SIZES and node.domain == "" for node in model.graph)
        if not asks or not _is_batch_open(model.graph):
            return ir.passes.PassResult(model, False)
        twins = [_constants_at(model, size) for size in _BATCHES]
        return ir.passes.PassResult(model, _fold_rows(model.graph, twins))


def _constants_at(model: ir.Model, batch: int) -> dict[str, AnyArray]:
    """What is constant in the same network at a fixed batch, by the names of values."""
    twin = model.clone()
    for value in twin.graph.inputs:
        if value.shape is not None and len(value.shape) and not isinstance(value.shape[0], int):
            value.shape = ir.Shape([batch, *value.shape.dims[1:]])
    for node in twin.graph:
        for value in node.outputs:
            # What was inferred of an open batch is not refined by itself.
            value.shape = None if None in (static_shape(value) or ()) else value.shape
    FoldConstants()(twin)
    values = [*twin.graph.initializers.values(), *(value for node in twin.graph for value in node.outputs)]
    return {str(value.name): array for value in values if (array := constant_array(value)) is not None}


def _is_batch_open(graph: ir.Graph) -> bool:
    """Whether first dimensions are open, and nothing else is."""
    found: set[str | None] = set()
    for value in graph.inputs:
        if value.shape is None or any(not isinstance(dim, int) for dim in value.shape.dims[1:]):
            return False
        found |= {dim.value for dim in value.shape.dims[:1] if isinstance(dim, ir.SymbolicDim)}
    return len(found) == 1


def _fold_rows(graph: ir.Graph, twins: list[dict[str, AnyArray]]) -> bool:
    """Take one row of what has as many equal ones as the batch, where that broadcasts or can be joined."""
    rows: dict[ir.Value, AnyArray] = {}
    for giver in graph:
        for value in giver.outputs:
            is_float = value.dtype == ir.DataType.FLOAT
            row = _row([twin.get(str(value.name)) for twin in twins]) if is_float else None
            if row is not None:
                rows[value] = row
    modified = False
    for node in list(graph):
        found = {i: rows[value] for i, value in enumerate(node.inputs) if value is not None and value in rows}
        if not found or len(found) == len(node.inputs) or node.outputs[0] in rows or node.domain != "":
            continue
        if node.op_type == "Concat" and all(len(row) == 1 for row in found.values()):
            constants = {i: array for i, v in enumerate(node.inputs) if (array := constant_array(v)) is not None}
            modified |= pad_for(graph, node, constants | found)
        elif node.op_type in _BROADCASTING and len(node.inputs) == 2:
            ((index, row),) = found.items()
            other = static_shape(node.inputs[1 - index])
            if other is None or len(other) != row.ndim or other[0] is not None:
                continue
            if len(row) == 1:
                name = f"{node.name or node.outputs[0].name}_row"
                node.replace_input_with(index, initializer(graph, name, row))
                modified = True
            else:
                modified |= _try_divide(graph, node, index, row)
    return modified


def _try_divide(graph: ir.Graph, node: ir.Node, index: int, rows: AnyArray) -> bool:
    """Let a node work on `[N, k, ...]`, where its constant operand repeats these k rows for each image."""
    x, result = node.inputs[1 - index], node.outputs[0]
    each, given = (static_shape(value) or () for value in (x, result))
    if x is None or len(given) != rows.ndim or None in each[1:] or None in given[1:]:
        return False
    inner, outer = ([size for size in sizes[1:] if size is not None] for sizes in (each, given))
    steps, images = Steps(graph, node, x), ir.SymbolicDim(None)
    steps.add("Reshape", "each", [np.array([-1, len(rows), *inner])], [images, len(rows), *inner])
    divided = steps.add(node.op_type, "divided", [rows], [images, len(rows), *outer])
    if index == 0:
        for place, value in enumerate(divided.inputs[::-1]):
            divided.replace_input_with(place, value)
    steps.add("Reshape", "", [np.array([-1, *outer])], [images, *outer])
    steps.replace()
    return True


def _row(arrays: list[AnyArray | None]) -> AnyArray | None:
    """`[k, ...]` of two float arrays that repeat it as often as the batches; None of others."""
    one, other = arrays
    if one is None or other is None or one.ndim < 2 or len(one) % _BATCHES[0] or not len(one):
        return None
    count = len(one) // _BATCHES[0]
    row = one[:count]
    if len(other) != count * _BATCHES[1] or row.shape != other[:count].shape or not row.size:
        return None
    near = _ROUNDINGS * float(np.abs(row[np.isfinite(row)]).max(initial=0))
    parts = (array.reshape(-1, *row.shape) for array in (one, other))
    return row if all(np.isclose(each, row, rtol=0, atol=near).all() for each in parts) else None
