"""Run batches through the float network and keep each tensor's range.

Source: FAQ, section 3.2: several (5) training batches; per tensor, `ymax` is the maximum over the batches of the batch's
99.99th percentile (99.9 for 4-bit layers).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.calibration.percentile import RunningPercentile
from qpipe.errors import DataError
from qpipe.runtime.session import open_session

PERCENTILE = {8: 99.99, 4: 99.9}
_PIECE_VALUES = 2**24  # values of all observed tensors together that one run of the network may produce


@dataclass(frozen=True)
class ObservedRange:
    """ymax: the percentile in the tensor's units, before it is rounded up; is_negative: whether a value was below 0."""

    ymax: float
    is_negative: bool

    @property
    def log2_ymax(self) -> int | None:
        """The next power of two; None for a tensor of zeros."""
        if self.ymax <= 0:
            return None
        mantissa, exponent = math.frexp(self.ymax)
        return exponent - (mantissa == 0.5)


def default_percentile(bits: int) -> float:
    """99.99 for 8-bit tensors, 99.9 for narrower ones (FAQ, section 3.2)."""
    return PERCENTILE[8] if bits >= 8 else PERCENTILE[4]


def observe(
    model: ir.Model,
    percentiles: Mapping[str, float],
    batches: Iterable[npt.NDArray[np.float32]],
    *,
    magnitudes: frozenset[str],
) -> dict[str, ObservedRange]:
    """The range of each named value over batches of inputs `[N, C, H, W]`.

    A batch runs in pieces, so memory holds one piece's activations, whatever the batch and however many batches.

    Args:
        model: the float network, one input.
        percentiles: value name -> percentile.
        batches: float32 inputs.
        magnitudes: names whose percentile is of `|y|`, and for which the sign is looked at.
    """
    watched = {name: RunningPercentile(p, magnitude=name in magnitudes) for name, p in percentiles.items()}
    negative = dict.fromkeys(percentiles, False)
    input_name = model.graph.inputs[0].name
    computed = [name for name in percentiles if name != input_name]
    session = open_session(_with_outputs(model, computed))
    fixed = model.graph.inputs[0].shape[0] if model.graph.inputs[0].shape else None
    piece = fixed if isinstance(fixed, int) else 1
    seen = 0
    for batch in batches:
        seen += len(batch)
        if not np.isfinite(batch).all():
            raise DataError("calibration data: NaN or infinite values, expected finite inputs")
        start = 0
        first = True
        while start < len(batch):
            inputs = batch[start : start + piece]
            outputs = dict(zip(computed, session.run(computed, {input_name: inputs}), strict=True))
            if input_name in watched:
                outputs[str(input_name)] = inputs
            for name, array in outputs.items():
                if first:
                    watched[name].begin(array.size // len(inputs) * len(batch))
                watched[name].update(array)
                negative[name] |= name in magnitudes and not negative[name] and bool(array.min() < 0)
            start, first = start + len(inputs), False
            if not isinstance(fixed, int):
                per_image = max(sum(array.size for array in outputs.values()) // len(inputs), 1)
                piece = max(_PIECE_VALUES // per_image, 1)
        for percentile in watched.values():
            percentile.end()
    if not seen:
        raise DataError("calibration data: no batch, expected at least one")
    return {name: ObservedRange(p.value, negative[name]) for name, p in watched.items()}


def _with_outputs(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy of the model whose outputs are these values."""
    copy = ir.Model(model.graph.clone(), ir_version=model.ir_version, functions=[])
    values = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values[name] for name in names)
    for value in copy.graph.outputs:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    return copy
