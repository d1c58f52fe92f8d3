"""Observe the range of every tensor that will be quantized.

`ymax` = max over batches of the batch's percentile, exact and streaming. Source: FAQ, section 3.2. The ranges are
left on the values, as metadata `qpipe.range`, for the pass `insert-quantizers`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import onnx_ir as ir

from qpipe.calibration.observe import ObservedRange, default_percentile, observe
from qpipe.calibration.shard import ALONE, Shard
from qpipe.errors import ModelError
from qpipe.ir.graph.layer_options import NO_OPTIONS, LayerTable
from qpipe.ir.quantized.plan import PlannedQuantizer, plan_quantization

RANGE_KEY = "qpipe.range"
NARROW_KEY = "qpipe.range.narrow"  # of a value that is carried wider for a skip: at its readers' width


@dataclass(frozen=True, kw_only=True)
class CalibratePercentile(ir.passes.InPlacePass):
    """Run `inputs` (batches of float32 `[N, C, H, W]`) through the network; percentile None is the width's own."""

    name: ClassVar[str] = "calibrate-percentile"

    percentile: float | None = None
    activation_bits: int = 8
    skip_bits: int | None = None
    layers: LayerTable = NO_OPTIONS
    inputs: Iterable[Any] = field(default=(), repr=False, metadata={"argument": False})
    shard: Shard = field(default=ALONE, repr=False, metadata={"argument": False})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Leave a range on every planned tensor that has none; raise DataError on inputs that can't be used."""
        plan = plan_quantization(
            model.graph, activation_bits=self.activation_bits, skip_bits=self.skip_bits, layers=self.layers
        )
        modified = False
        for planned, key in ((plan.quantizers, RANGE_KEY), (plan.narrowed, NARROW_KEY)):
            if planned:
                modified |= observe_ranges(model, planned, self.inputs, self.percentile, shard=self.shard, key=key)
        return ir.passes.PassResult(model, modified)


def observe_ranges(
    model: ir.Model,
    planned: Mapping[ir.Value, PlannedQuantizer],
    inputs: Iterable[Any],
    percentile: float | None,
    *,
    shard: Shard,
    key: str = RANGE_KEY,
) -> bool:
    """Leave the range of what it rounds on each planned value that has none; whether there was one.

    model: what runs, whose values have the names of the planned ones. percentile: None is that of each width.
    """
    quantizers = {str(q.observed.name): q for value, q in planned.items() if key not in value.metadata_props}
    ranges = observe(
        model,
        {name: percentile or default_percentile(quantizer.rounded_bits) for name, quantizer in quantizers.items()},
        inputs,
        magnitudes=frozenset(name for name, quantizer in quantizers.items() if quantizer.signed is not False),
        shard=shard,
    )
    for name, quantizer in quantizers.items():
        write_range(quantizer.value, ranges[name], key)
    return bool(ranges)


def write_range(value: ir.Value, observed: ObservedRange, key: str = RANGE_KEY) -> None:
    """Leave the range on the value."""
    value.metadata_props[key] = json.dumps(asdict(observed))


def take_range(value: ir.Value, key: str = RANGE_KEY) -> ObservedRange:
    """Take the range from the value; ModelError where there is none."""
    text = value.metadata_props.pop(key, None)
    if text is None:
        raise ModelError(f"tensor '{value.name}' has no observed range; run calibrate-percentile first")
    return ObservedRange(**json.loads(text))
