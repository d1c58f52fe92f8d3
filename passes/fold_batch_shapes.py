"""Compute what hangs on sizes alone, where nothing but the batch is open.

The graph is folded twice more, with a batch of 3 and with one of 7, and the results are compared:

    the same numbers                      are constants
    the same sizes                        are known, and those that are the batch (`constant-reshape` needs no more)
    equal rows, as many as the batch      are one row for all: beside an activation it broadcasts, or a Pad joins it

Only constants are folded, so nothing that hangs on data is taken for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from passes.fold_constants import FoldConstants
from passes.pad_for_constants import pad_for
from qpipe.arith.namespace import AnyArray
from qpipe.nodes import constant_array, initializer, static_shape

_BATCHES: Final = (3, 7)
_SIZES: Final = frozenset({"Shape", "Size"})
_BROADCASTING: Final = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min"})


@dataclass(frozen=True, kw_only=True)
class FoldBatchShapes(ir.passes.InPlacePass):
    """A graph that asks for sizes, whose inputs' first dimensions alone are open, all by one name."""

    name: ClassVar[str] = "fold-batch-shapes"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace what is found by constants; what computed it is left to dead-code removal."""
        batch = _open_batch(model.graph)
        if batch is None or not any(node.op_type in _SIZES and node.domain == "" for node in model.graph):
            return ir.passes.PassResult(model, False)
        twins = [_Twin.of(model, size) for size in _BATCHES]
        modified = _fold_numbers(model.graph, twins)
        modified |= _name_sizes(model.graph, twins, batch)
        modified |= _fold_rows(model.graph, twins)
        return ir.passes.PassResult(model, modified)


@dataclass(frozen=True)
class _Twin:
    """The same network at a fixed batch, by the names of its values: constants and shapes."""

    batch: int
    constants: dict[str, AnyArray]
    shapes: dict[str, tuple[int | None, ...]]

    @classmethod
    def of(cls, model: ir.Model, batch: int) -> _Twin:
        twin = model.clone()
        for value in twin.graph.inputs:
            if value.shape is not None and len(value.shape) and not isinstance(value.shape[0], int):
                value.shape = ir.Shape([batch, *value.shape.dims[1:]])
        names = {value.name for node in model.graph for value in node.outputs}
        for node in twin.graph:
            for value in node.outputs:
                # What was inferred of an open batch is not refined by itself.
                value.shape = None if value.shape is not None and None in (static_shape(value) or ()) else value.shape
        FoldConstants()(twin)
        values = [*twin.graph.initializers.values(), *(v for node in twin.graph for v in node.outputs)]
        arrays = {str(v.name): array for v in values if v.name in names and (array := constant_array(v)) is not None}
        shapes = {str(v.name): shape for v in values if v.name in names and (shape := static_shape(v)) is not None}
        return cls(batch, arrays, shapes)


def _open_batch(graph: ir.Graph) -> ir.SymbolicDim | None:
    """The open first dimension; None where there is none, or more is open."""
    found: list[ir.SymbolicDim] = []
    for value in graph.inputs:
        shape = value.shape
        if shape is None or any(not isinstance(dim, int) for dim in shape.dims[1:]):
            return None
        found += [dim for dim in shape.dims[:1] if isinstance(dim, ir.SymbolicDim)]
    return found[0] if found and len({dim.value for dim in found}) == 1 else None


def _fold_numbers(graph: ir.Graph, twins: list[_Twin]) -> bool:
    """Make constants of what has the same numbers in both."""
    first, second = (twin.constants for twin in twins)
    modified = False
    for node in graph:
        for value in node.outputs:
            one, other = first.get(str(value.name)), second.get(str(value.name))
            if one is None or other is None or not value.uses() or constant_array(value) is not None:
                continue
            if one.shape == other.shape and one.dtype == other.dtype and np.array_equal(one, other):
                value.replace_all_uses_with(initializer(graph, f"{value.name}_folded", one))
                modified = True
    return modified


def _name_sizes(graph: ir.Graph, twins: list[_Twin], batch: ir.SymbolicDim) -> bool:
    """Give each value the sizes that it has at every batch."""
    modified = False
    for node in graph:
        for value in node.outputs:
            one, other = (twin.shapes.get(str(value.name)) for twin in twins)
            if one is None or other is None or len(one) != len(other):
                continue
            sizes: list[int | ir.SymbolicDim | None] = []
            for a, b in zip(one, other, strict=True):
                sizes.append(a if a == b else batch if (a, b) == _BATCHES else None)
            modified |= value.shape != ir.Shape(sizes)
            value.shape = ir.Shape(sizes)
    return modified


def _fold_rows(graph: ir.Graph, twins: list[_Twin]) -> bool:
    """Take one row of what has as many equal ones as the batch, where that broadcasts or can be joined."""
    rows: dict[ir.Value, AnyArray] = {}
    for giver in graph:
        for value in giver.outputs:
            row = _row([twin.constants.get(str(value.name)) for twin in twins])
            if row is not None and value.dtype == ir.DataType.FLOAT:
                rows[value] = row
    modified = False
    for node in list(graph):
        found = {i: rows[value] for i, value in enumerate(node.inputs) if value is not None and value in rows}
        if not found or len(found) == len(node.inputs) or node.outputs[0] in rows or node.domain != "":
            continue
        if node.op_type == "Concat":
            constants = {i: array for i, v in enumerate(node.inputs) if (array := constant_array(v)) is not None}
            modified |= pad_for(graph, node, constants | found)
        elif node.op_type in _BROADCASTING and len(node.inputs) == 2:
            ((index, row),) = found.items()
            other = static_shape(node.inputs[1 - index])
            if other is not None and len(other) == row.ndim and other[0] is None:
                name = f"{node.name or node.outputs[0].name}_row"
                node.replace_input_with(index, initializer(graph, name, row))
                modified = True
    return modified


def _row(arrays: list[AnyArray | None]) -> AnyArray | None:
    """`[1, ...]` of two arrays that have as many equal rows as the batches; None of others."""
    one, other = arrays
    if one is None or other is None or one.ndim < 2 or (len(one), len(other)) != _BATCHES:
        return None
    row = one[:1]
    return row if row.shape == other[:1].shape and (one == row).all() and (other == row).all() else None
