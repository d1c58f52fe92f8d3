"""Give activations the range of their width alone, as the control experiments without calibration do.

    ymax = 2**(p / 2) - 1,  p bits: 15 at 8 bits, 3 at 4

Source: FAQ, section 3.2: networks that start from random weights have no ReLU calibration, since their first ranges
are unlikely to be right; every ReLU has this range instead. With pretrained weights it is the last and worst row of
Table 2, "neglecting to calibrate". The grid is that of the next power of two (16 and 4).

What the paper leaves open: a signed branch before an Add and what an average pool gives have the range of their own
width, by the same formula. The network's input, and what is computed from it before the first weights, are data and
keep their measured range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from passes.quantizing.calibrate_percentile import NARROW_KEY, RANGE_KEY, write_range
from qpipe.calibration.observe import ObservedRange
from qpipe.ir.graph.layer_options import NO_OPTIONS, LayerTable
from qpipe.ir.quantized.plan import plan_quantization


@dataclass(frozen=True, kw_only=True)
class FixRanges(ir.passes.InPlacePass):
    """Leave the fixed range on every planned tensor behind the first weights; `calibrate-percentile` does the rest."""

    name: ClassVar[str] = "fix-ranges"

    activation_bits: int = 8
    skip_bits: int | None = None
    layers: LayerTable = NO_OPTIONS

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Write ranges; no data are needed."""
        plan = plan_quantization(
            model.graph, activation_bits=self.activation_bits, skip_bits=self.skip_bits, layers=self.layers
        )
        modified = False
        for key, quantizers in ((RANGE_KEY, plan.quantizers), (NARROW_KEY, plan.narrowed)):
            for value, planned in quantizers.items():
                if planned.signed is not None:
                    write_range(value, ObservedRange(fixed_range(planned.rounded_bits), planned.signed), key)
                    modified = True
        return ir.passes.PassResult(model, modified)


def fixed_range(bits: int) -> float:
    """`2**(p / 2) - 1`, before it is rounded up to a power of two."""
    return float(2 ** (bits / 2) - 1)
