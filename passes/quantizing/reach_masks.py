"""Let ranges reach what masks of attention can do, though no sample shows it.

    Softmax(x + m)      m: looked up by tokens or by a mask, 0 in every sample that was calibrated on

Its range would be 0, and that of the sum the scores' own: what is masked later would not be. What a mask can give is
known without data, and what its sum is cut at as well (`passes/quantizing/bound_scores.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from passes.quantizing.bound_scores import mask_reach
from passes.quantizing.calibrate_percentile import take_range, write_range
from qpipe.ir.graph.layer_options import NO_OPTIONS, LayerTable
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.nodes import constant_input


@dataclass(frozen=True, kw_only=True)
class ReachMasks(ir.passes.InPlacePass):
    """Of each planned tensor that is a mask, or scores that one was added to and that were cut."""

    name: ClassVar[str] = "reach-masks"

    activation_bits: int = 8
    skip_bits: int | None = None
    layers: LayerTable = NO_OPTIONS

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Widen ranges that were observed; raises ModelError where a tensor has none."""
        plan = plan_quantization(
            model.graph, activation_bits=self.activation_bits, skip_bits=self.skip_bits, layers=self.layers
        )
        modified = False
        for value in plan.quantizers:
            reach = max(mask_reach(value), _cut_at(value))
            if reach:
                observed = take_range(value)
                if observed.ymax < reach:
                    observed = replace(observed, ymax=reach, is_negative=True, is_given=True)
                    modified = True
                write_range(value, observed)
        return ir.passes.PassResult(model, modified)


def _cut_at(value: ir.Value) -> float:
    """Minus where a Clip behind a sum with such a mask ends; 0 of anything else."""
    clip = value.producer()
    if clip is None or clip.op_type != "Clip" or clip.domain != "" or clip.inputs[0] is None:
        return 0.0
    add, low = clip.inputs[0].producer(), constant_input(clip, 1)
    operands = [] if add is None or add.op_type != "Add" else [v for v in add.inputs if v is not None]
    return max(0.0, -float(low)) if low is not None and any(map(mask_reach, operands)) else 0.0
