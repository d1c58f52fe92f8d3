"""The common grid of the binary bases that a network sums in the place of a block's convolutions (GroupNet)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from qpipe.arith.spec import QuantSpec
from qpipe.formats.binary import base_grid
from qpipe.ir.graph.binary_blocks import BinaryBlock
from qpipe.ir.quantized.plan import EDGE_BITS, QuantizationPlan
from qpipe.ops import Role


def base_grids(
    plan: QuantizationPlan, specs: Mapping[ir.Value, QuantSpec], blocks: Iterable[BinaryBlock]
) -> dict[ir.Value, QuantSpec]:
    """The grids of bases and of their partial sums, in the place of those that each tensor would have alone."""
    found: dict[ir.Value, QuantSpec] = {}
    adds = {layer.name: layer for layer in plan.layers if layer.role is Role.JOIN}
    for block in blocks:
        sums = [adds[name] for name in block.sums if name in adds]
        totals = {add.output for add in sums}
        bases = [value for add in sums for value in add.inputs if value not in totals]
        if bases:
            common = base_grid([specs[value] for value in bases])
            found |= dict.fromkeys(bases, common) | dict.fromkeys(totals, QuantSpec.signed(EDGE_BITS, common.exponent))
    return found
