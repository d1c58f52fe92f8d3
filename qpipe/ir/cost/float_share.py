"""How much of a network's multiply-accumulates stays float."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from qpipe.ir.cost.macs import count_macs
from qpipe.ir.quantized.plan import QuantizationPlan
from qpipe.nodes import describe_some

MOST = 0.5
"""A share over which integers are hardly worth their trouble."""


@dataclass(frozen=True)
class FloatShare:
    """share: of the multiply-accumulates for one image, of 1; nodes: those that have them, the largest first."""

    share: float
    nodes: tuple[ir.Node, ...]

    @property
    def words(self) -> str:
        """One line."""
        return f"{self.share:.0%} of the multiply-accumulates stay float: {describe_some(self.nodes)}"


def float_share(plan: QuantizationPlan) -> FloatShare | None:
    """Of what calibration would make of a network; None where it is no more than `MOST`, or where nobody knows it."""
    counts = {node: count_macs(node) or 0 for layer in (*plan.islands, *plan.tail) for node in layer.nodes}
    floats = {node: count for node, count in counts.items() if count}
    integers = [count_macs(node) for layer in plan.layers for node in layer.nodes]
    total = sum(floats.values()) + sum(count for count in integers if count is not None)
    if None in integers or not total or sum(floats.values()) <= MOST * total:
        return None
    return FloatShare(sum(floats.values()) / total, tuple(sorted(floats, key=lambda node: -floats[node])))
