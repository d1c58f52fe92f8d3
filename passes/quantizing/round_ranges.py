"""Round each observed range to a power of two: the one above it, the nearest, or the one whose grid errs least.

"ceil" is the paper's: "rounded up to the next even power of two" (FAQ, section 3.2). It wastes up to a bit. "nearest"
cuts off up to a factor sqrt(2) more than the percentile does. "least-error" tries the exponents of "ceil" and of the
three powers below it, and takes that of the least mean squared error between the tensor and its quantized values over
the same calibration batches; there "is large" and "is frequent" are weighed against each other (cf. Banner et al. 2019,
where the clip is derived from a distribution instead). Measured on ResNet-20 before training, "ceil" is the best of the
three at 4 bits and the equal of "least-error" at 6 and 8, which is ahead at 3; so "ceil" is the default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import onnx_ir as ir

from passes.quantizing.calibrate_percentile import NARROW_KEY, take_range, write_range
from qpipe.arith.power_of_two import Rounding
from qpipe.calibration.observe import ObservedRange
from qpipe.calibration.rounding_error import least_error
from qpipe.calibration.shard import ALONE, Shard
from qpipe.ir.graph.layer_options import NO_OPTIONS, LayerTable
from qpipe.ir.quantized.plan import QuantizationPlan, plan_quantization

RangeRounding = Literal["ceil", "nearest", "least-error"]

TRIED = 4  # powers of two that "least-error" tries: that of "ceil", and those below it


@dataclass(frozen=True, kw_only=True)
class RoundRanges(ir.passes.InPlacePass):
    """Replace `ymax` of every planned tensor by a power of two; a tensor of zeros keeps its own.

    What layers of weights read of a value that is carried wider for a skip is rounded up in the place of "least-error".
    inputs: batches of float32 `[N, C, H, W]`, which only "least-error" reads.
    """

    name: ClassVar[str] = "round-ranges"

    rounding: RangeRounding = "ceil"
    activation_bits: int = 8
    skip_bits: int | None = None
    layers: LayerTable = NO_OPTIONS
    inputs: Iterable[Any] = field(default=(), repr=False, metadata={"argument": False})
    shard: Shard = field(default=ALONE, repr=False, metadata={"argument": False})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Round; raises ModelError on a tensor without a range, DataError on inputs that can't be used."""
        plan = plan_quantization(
            model.graph, activation_bits=self.activation_bits, skip_bits=self.skip_bits, layers=self.layers
        )
        observed = {value: take_range(value) for value in plan.quantizers}
        rounding: Rounding = "ceil" if self.rounding == "least-error" else self.rounding
        chosen = {value: found.log2_ymax(rounding) for value, found in observed.items()}
        if self.rounding == "least-error":
            chosen |= self._least_error(model, plan, observed, chosen)
        for value, found in observed.items():
            write_range(value, _rounded(found, chosen[value]))
        for value in plan.narrowed:
            narrow = take_range(value, NARROW_KEY)
            write_range(value, _rounded(narrow, narrow.log2_ymax(rounding)), NARROW_KEY)
        return ir.passes.PassResult(model, bool(observed))

    def _least_error(
        self,
        model: ir.Model,
        plan: QuantizationPlan,
        observed: dict[ir.Value, ObservedRange],
        tops: dict[ir.Value, int | None],
    ) -> dict[ir.Value, int | None]:
        """log2 of the power of two that errs least, at most `tops`, of each tensor that is not all zeros."""
        tried = {value: range(top, top - TRIED, -1) for value, top in tops.items() if top is not None}
        names = {value: str(planned.observed.name) for value, planned in plan.quantizers.items()}
        grids = {
            names[value]: [plan.quantizers[value].grid(p, is_negative=observed[value].is_negative) for p in powers]
            for value, powers in tried.items()
        }
        best = least_error(model, grids, self.inputs, shard=self.shard)
        return {value: powers[best[names[value]]] for value, powers in tried.items()}


def _rounded(observed: ObservedRange, log2_ymax: int | None) -> ObservedRange:
    if log2_ymax is None:
        return observed
    return dataclasses.replace(observed, ymax=2.0**log2_ymax, unrounded=observed.ymax)
