"""Coarsen what a sum adds to something much larger, as far as the sum of their integers needs it.

A branch that is scaled by 1e-6 (ConvNeXt, before it is trained) or scores before an attention mask of -2^15 have steps
too fine for a sum that float32 holds. What they have below the coarsest step that does is less than 2^-15 of a step of
the other operand, and nothing that is rounded behind the sum shows it.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from typing import Final

import onnx_ir as ir

from qpipe.arith.spec import QuantSpec
from qpipe.arith.table import GridOrTable
from qpipe.ir.graph.layers import Layer
from qpipe.ir.quantized.plan import QuantizationPlan
from qpipe.ops import Role

_ROUNDS: Final = 16
"""Sums one behind the other that a coarser operand can make coarser."""


def bring_near(
    plan: QuantizationPlan,
    grids: dict[ir.Value, GridOrTable],
    narrow: dict[ir.Value, GridOrTable],
    fixed: Container[ir.Value],
) -> None:
    """Change grids, and those of what is read narrower than a skip carries it, in place; fixed ones and tables stay."""
    for _ in range(_ROUNDS):
        if not _once(plan, grids, narrow, fixed):
            return


def _once(
    plan: QuantizationPlan,
    grids: dict[ir.Value, GridOrTable],
    narrow: dict[ir.Value, GridOrTable],
    fixed: Container[ir.Value],
) -> bool:
    specs = {value: grid.grid for value, grid in grids.items()}
    slim = {value: grid.grid for value, grid in narrow.items()}
    roots, changed = dict[ir.Value, ir.Value](), False
    for layer in plan.layers:
        is_slim = plan.reads_narrow(layer)
        sources = [slim.get(value, specs[value]) if is_slim else specs[value] for value in layer.inputs]
        for value, source, near in zip(layer.inputs, sources, layer.op.near(layer.node, sources), strict=True):
            root = roots.get(value, value)
            book = narrow if is_slim and root in narrow else grids
            grid = book.get(root)
            if near != source and isinstance(grid, QuantSpec) and root not in fixed:
                book[root] = replace(grid, exponent=grid.exponent + near.exponent - source.exponent)
                changed = True
        _follow(layer, sources, grids, specs, roots)
    return changed


def _follow(
    layer: Layer,
    sources: list[QuantSpec],
    grids: dict[ir.Value, GridOrTable],
    specs: dict[ir.Value, QuantSpec],
    roots: dict[ir.Value, ir.Value],
) -> None:
    """The grid of what a layer gives, as far as it hangs on its sources'."""
    observed = grids.get(layer.output)
    if layer.role is Role.CARRY and layer.curve is not None:
        after = observed if isinstance(observed, QuantSpec) else None
        specs[layer.output] = layer.curve.table(sources[0], sources[0].bits, after=after).grid
    elif (carried := layer.op.carried(layer.node, sources)) is not None:
        specs[layer.output] = carried
        roots[layer.output] = roots.get(layer.inputs[0], layer.inputs[0])
    elif isinstance(observed, QuantSpec):
        specs[layer.output] = layer.op.fitted(layer.node, sources, observed)
