"""What nodes of a QDQ graph say of themselves in their metadata, for whoever trains on.

It is trusted by nobody: a note that does not say what the node computes is refused.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from qpipe.arith.quantize import quantize
from qpipe.arith.table import SIZE, CodeTable
from qpipe.errors import ModelError
from qpipe.formats.lq import lq_table
from qpipe.nodes import describe
from qpipe.ops import ActivationFunction, Curve, Rectifier, Units, curve_of

BASIS = "qpipe.basis"
"""Of a Gather: the basis that its table is made from, a list of numbers."""
BOUND = "qpipe.bound"
"""Of a QuantizeLinear: the upper bound of the float Clip from 0 that its codes' range took the place of."""
FUNCTION = "qpipe.function"
"""Of a Gather: the activation that its table took the place of, `op`, `domain` and the attributes."""

_LARGEST = float(np.finfo(np.float32).max)
_NEXT = 1  # code: another library's last bit may round an entry the other way


def write_bound(quantize: ir.Node, bound: float) -> None:
    """Let a QuantizeLinear say what Clip its codes' range took the place of."""
    quantize.metadata_props[BOUND] = json.dumps(bound)


def read_bound(quantize: ir.Node) -> Rectifier | None:
    """The Clip that it took the place of; None where it says nothing."""
    bound = _read(quantize, BOUND)
    if bound is None:
        return None
    if not _is_number(bound, finite=False) or not bound > 0:
        raise ModelError(f"{describe(quantize)}: metadata '{BOUND}' is {bound!r}, expected a number over 0")
    return Rectifier(float(bound))


def write_curve(gather: ir.Node, curve: Curve) -> None:
    """Let a table say what activation it took the place of."""
    units = {} if curve.units.are_one else asdict(curve.units)
    said = {"op": curve.op_type, "domain": curve.domain, **dict(curve.parameters), **units}
    gather.metadata_props[FUNCTION] = json.dumps(said)


def read_curve(gather: ir.Node, table: CodeTable) -> ActivationFunction | None:
    """The activation that its table is of; None where it says nothing."""
    said = _read(gather, FUNCTION)
    if said is None:
        return None
    expected = f"{describe(gather)}: metadata '{FUNCTION}' is {json.dumps(said)}, expected an activation"
    if not isinstance(said, dict) or not all(isinstance(said.get(key), str) for key in ("op", "domain")):
        raise ModelError(expected)
    attributes = {name: value for name, value in said.items() if name not in {"op", "domain"}}
    if not all(_is_number(value) for value in attributes.values()):
        raise ModelError(expected)
    attributes = {name: float(value) for name, value in attributes.items()}
    units = Units(**{field.name: attributes.pop(field.name, 1.0) for field in fields(Units)})
    curve = curve_of(said["op"], said["domain"], attributes)
    if curve is None or not min(units.inner, units.outer) > 0:
        raise ModelError(expected)
    curve = replace(curve, units=units)
    before, after = table.rounded_to, table.grid
    x = np.clip(np.arange(SIZE) - before.zero_point, before.qmin, before.qmax) * np.float64(before.scale)
    made = tuple((quantize(curve.real(x), after) + after.zero_point).astype(int).tolist())
    _check_table(gather, table, replace(table, entries=made), f"metadata '{FUNCTION}', {curve.op_type}")
    return curve


def write_basis(gather: ir.Node, table: CodeTable) -> None:
    """Let a learned table say what it is made from."""
    if table.basis is not None:
        gather.metadata_props[BASIS] = json.dumps(list(table.basis))


def read_basis(gather: ir.Node, table: CodeTable) -> tuple[float, ...] | None:
    """What its table is made from; None where it says nothing."""
    basis = _read(gather, BASIS)
    if basis is None:
        return None
    if not isinstance(basis, list) or not 0 < len(basis) <= SIZE.bit_length() or not all(map(_is_number, basis)):
        raise ModelError(f"{describe(gather)}: metadata '{BASIS}' is {json.dumps(basis)}, expected a list of numbers")
    made = lq_table(np.array(basis, np.float64), table.rounded_to)
    _check_table(gather, table, made, f"metadata '{BASIS}', {basis}")
    return tuple(float(number) for number in basis)


def _read(node: ir.Node, key: str) -> Any:
    text = node.metadata_props.get(key)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{describe(node)}: metadata '{key}' is no JSON: {error}") from None


def _is_number(value: object, *, finite: bool = True) -> bool:
    """Whether it is one, within float32's range; an infinite one too where that has a meaning."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    # Python compares integers of any length.
    return abs(value) <= _LARGEST or (not finite and math.isinf(value))


def _check_table(gather: ir.Node, found: CodeTable, made: CodeTable, source: str) -> None:
    """ModelError where the file's entries are not those that are made from what it says of them."""
    apart = np.abs(np.array(found.reached) - np.array(made.reached))
    if found.grid != made.grid or apart.max() > _NEXT:
        raise ModelError(f"{describe(gather)}: its table is none of its {source}; one of the two was changed")
