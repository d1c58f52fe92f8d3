"""Write and read the look-up of codes in a QDQ graph, between a quantizer's QuantizeLinear and its DequantizeLinear.

    Reshape to one row, Cast to int32, GatherElements, Reshape             Cast to int32, Gather: of open sizes

The table's constant has 256 codes; what they stand for is in `qpipe.arith.table`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.spec import QuantSpec
from qpipe.arith.table import SIZE, CodeTable, row_sizes
from qpipe.errors import ModelError
from qpipe.ir.quantized.notes import read_basis, write_basis, write_curve
from qpipe.nodes import constant_input, describe, initializer, name_value
from qpipe.ops import ActivationFunction, Curve

_LOOK_UPS: Final = frozenset({"Gather", "GatherElements"})
_UINT8: Final = ir.TensorType(ir.DataType.UINT8)
_INT32: Final = ir.TensorType(ir.DataType.INT32)


def look_up_codes(
    graph: ir.Graph,
    codes: ir.Value,
    table: CodeTable,
    base: str,
    function: ActivationFunction | None,
    *,
    at_any_size: bool = False,
) -> list[ir.Node]:
    """The nodes that take codes through a table, which says what it took the place of; base: of their names.

    at_any_size: the sizes are those of calibration, and the file leaves them open.
    """
    sizes, shape, whole = None if at_any_size else row_sizes(tuple(codes.shape or ())), codes.shape, codes.shape
    nodes: list[ir.Node] = []

    def write(node: ir.Node, name: str, dtype: ir.TensorType, shape: ir.Shape | None) -> ir.Value:
        node.name = f"{base}_{name}"
        nodes.append(node)
        name_value(node.outputs[0], f"{base}_{name}", dtype, shape)
        return node.outputs[0]

    if sizes is not None:
        row, shape = initializer(graph, f"{base}_one_row", np.array([-1])), ir.Shape([None])
        codes = write(ir.node("Reshape", [codes, row]), "row", _UINT8, shape)
    indices = write(ir.node("Cast", [codes], {"to": ir.DataType.INT32}), "index", _INT32, shape)
    entries = initializer(graph, f"{base}_table", table.array())
    look_up = ir.node("Gather" if sizes is None else "GatherElements", [entries, indices])
    found = write(look_up, "look_up", _UINT8, shape)
    write_basis(look_up, table)
    if isinstance(function, Curve):
        write_curve(look_up, function)
    if sizes is not None:
        back = initializer(graph, f"{base}_sizes", np.array(sizes))
        write(ir.node("Reshape", [found, back]), "from_row", _UINT8, whole)
    return nodes


def is_look_up(node: ir.Node) -> bool:
    """Whether it finds, in its first input, what is at the places of its second."""
    return node.op_type in _LOOK_UPS


def look_up_of(nodes: Sequence[ir.Node]) -> ir.Node | None:
    """The node of a quantizer whose constant is its table; None where it has none."""
    return next(filter(is_look_up, nodes), None)


def read_table(look_up: ir.Node, before: QuantSpec, after: QuantSpec) -> CodeTable:
    """The table between two grids; ModelError where its constant, or what it says of itself, is none."""
    entries = constant_input(look_up, 0)
    if entries is None or entries.dtype != np.uint8 or entries.shape != (SIZE,):
        raise ModelError(f"{describe(look_up)}: expected a constant table of {SIZE} uint8 codes")
    try:
        table = CodeTable(before, after, tuple(entries.tolist()))
        return replace(table, basis=read_basis(look_up, table))
    except ValueError as error:
        raise ModelError(f"{describe(look_up)}: {error}") from None
