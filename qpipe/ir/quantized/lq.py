"""Give layers LQ-Net's weights, and activations the table of LQ-Net's levels (see `qpipe.arith.lq`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from qpipe.arith.lq import (
    MAX_BITS,
    MIN_BITS,
    LQSpec,
    first_activation_basis,
    first_basis,
    lq_limit,
    lq_table,
)
from qpipe.arith.spec import QuantSpec
from qpipe.arith.table import CodeTable
from qpipe.arith.weights import pair_limit
from qpipe.errors import RecipeError
from qpipe.formats.codes import quantize
from qpipe.ir.graph.affine import read_affine
from qpipe.ir.graph.layers import Layer, Role
from qpipe.ir.quantized.insert_weight import insert_weight_quantizer
from qpipe.ir.quantized.plan import EDGE_BITS, PlannedQuantizer, QuantizationPlan
from qpipe.ir.quantized.qdq import insert_activation_quantizer
from qpipe.ir.quantized.weight_layout import is_depthwise, to_rows
from qpipe.nodes import describe, require_constant


@dataclass(frozen=True)
class LearnedTable:
    """A table and the basis that it is made from."""

    table: CodeTable
    basis: tuple[float, ...]


AnyGrid = QuantSpec | LearnedTable


def spec_of(grid: AnyGrid) -> QuantSpec:
    """The grid that readers see."""
    return grid.table.after if isinstance(grid, LearnedTable) else grid


def insert_grid(graph: ir.Graph, value: ir.Value, grid: AnyGrid, **options: Any) -> None:
    """As `insert_activation_quantizer`, whose options these are."""
    if isinstance(grid, LearnedTable):
        insert_activation_quantizer(graph, value, grid.table, basis=grid.basis, **options)
    else:
        insert_activation_quantizer(graph, value, grid, **options)


def check_lq(plan: QuantizationPlan) -> None:
    """Raise a RecipeError that names the first layer whose weights have a width that LQ-Net's can't have."""
    for layer in plan.layers:
        bits = plan.weight_bits.get(layer.node, MIN_BITS)
        if plan.is_inner(layer) and not MIN_BITS <= bits <= MAX_BITS:
            raise RecipeError(f"{describe(layer.node)}: {bits}-bit weights, expected {MIN_BITS} to {MAX_BITS} with lq")


def quantize_lq(model: ir.Model, layer: Layer, bits: int, source: QuantSpec, output: QuantSpec, *, cpu: str) -> None:
    """Insert the quantizer, on the basis that suits the weights as they are."""
    weight = require_constant(layer.node, 1, "weight").astype(np.float32)
    rows = to_rows(layer.node, weight)
    waived = cpu == "vnni" or is_depthwise(layer.node)
    spec = LQSpec(bits, lq_limit(None if waived else pair_limit(source.stored_max)))
    basis, affine = first_basis(rows, bits), read_affine(layer, len(rows))
    _, exponents = quantize(rows, affine.k, affine.beta, spec, source=source, output=output, basis=basis)
    insert_weight_quantizer(model, layer.node, weight, exponents.astype(np.int64), spec, basis)


def learned_values(plan: QuantizationPlan) -> set[ir.Value]:
    """What gets a table: unsigned activations of few bits, but those that only carry others' integers."""
    carried = {layer.output for layer in plan.layers if layer.role is Role.CARRY}
    return {
        value for planned in (plan.quantizers, plan.narrowed) for value, quantizer in planned.items()
        if quantizer.signed is False and quantizer.bits <= MAX_BITS and value not in carried
    }  # fmt: skip


def first_table(planned: PlannedQuantizer, ymax: float, log2_ymax: int, percentile: float) -> LearnedTable:
    """The table behind 8 bits for values up to `2**log2_ymax`, ymax of which is at the percentile."""
    before = replace(planned, bits=EDGE_BITS).grid(log2_ymax, is_negative=False)
    basis = first_activation_basis(ymax, percentile, planned.bits)
    return LearnedTable(lq_table(basis, before), tuple(basis.tolist()))
