"""Run batches through the float network and keep each tensor's range.

Source: FAQ, section 3.2: several (5) training batches; per tensor, `ymax` is the maximum over batches of the batch's
99.99th percentile (99.9 for 4-bit layers).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import onnx_ir as ir

from qpipe.arith.power_of_two import Rounding, rounded_log2
from qpipe.arith.spec import WIDE_BITS
from qpipe.calibration.percentile import FloatArray, RunningPercentile
from qpipe.calibration.pieces import Pieces
from qpipe.calibration.shard import ALONE, Shard
from qpipe.errors import DataError, ModelError
from qpipe.ir.graph.numbers import LARGEST
from qpipe.processes import usable_cores

DEFAULT_PERCENTILE = {2: 99.0, 3: 99.5, 4: 99.9, 5: 99.94, 6: 99.97, 7: 99.98, 8: 99.99, WIDE_BITS: 100.0}
"""Per width. 8 and 4 bits: FAQ, section 3.2; between them, what is cut off changes by the same factor a bit; below 4
chosen by training images (ResNet-20, 8-bit weights, before training; `tools/choose_percentiles.py`). 16 bits have room
for all.
"""

_SMALLEST = 2.0**-64


@dataclass(frozen=True)
class ObservedRange:
    """ymax: the percentile in the tensor's units; is_negative: whether a value was below 0.

    unrounded: the percentile, where ymax has been rounded to a power of two. zero_point: of codes of half the steps,
    where one sign reaches less far (see `QuantSpec.refined`). is_given: whether a file or a mask said it.
    """

    ymax: float
    is_negative: bool
    unrounded: float | None = None
    zero_point: int | None = None
    is_given: bool = False

    def log2_ymax(self, rounding: Rounding = "ceil") -> int | None:
        """Of the next or the nearest power of two; None for zeros (or so small that a scale would leave float32)."""
        return None if self.ymax < _SMALLEST else int(rounded_log2(np.asarray(self.ymax), rounding))


def default_percentile(bits: int) -> float:
    """The width's own: 99.99 for 8-bit tensors, 99.9 for 4-bit ones."""
    return DEFAULT_PERCENTILE[bits]


def observe(
    model: ir.Model,
    percentiles: Mapping[str, float],
    batches: Iterable[FloatArray],
    *,
    magnitudes: frozenset[str],
    shard: Shard = ALONE,
) -> dict[str, ObservedRange]:
    """The range of each named value over batches of inputs `[N, C, H, W]`.

    A batch runs in pieces, so memory holds one piece's activations, whatever the batch and however many batches.

    Args:
        model: the float network, one input.
        percentiles: value name -> percentile.
        batches: float32 inputs.
        magnitudes: names whose percentile is of `|y|`, and for which the sign is looked at.
        shard: which of the batches this process runs; the ranges are those of all batches in every process.
    """
    watched = {name: RunningPercentile(p, magnitude=name in magnitudes) for name, p in percentiles.items()}
    pieces = Pieces(model, list(percentiles))
    seen = 0
    # Comparing releases the interpreter's lock, so each thread has a share of the tensors.
    threads = usable_cores()
    shares = [list(watched)[first::threads] for first in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        for batch in shard.share(batches):
            begun = False
            for tensors, images in pieces.run(batch):
                if not begun:
                    for name, tensor in tensors.items():
                        watched[name].begin(max(tensor.size // images * len(batch), 1))
                    begun = True
                list(pool.map(_update, repeat(watched), repeat(tensors), shares))
            for percentile in watched.values():
                percentile.end()
            seen += len(batch)
    own = [(percentile.value, percentile.saw_negative, percentile.largest) for percentile in watched.values()]
    # The row of how much was seen comes first.
    merged = shard.largest(np.array([(seen, 0, 0), *own], np.float64))
    if not merged[0, 0]:
        raise DataError("calibration data: no batch, expected at least one")
    ranges = dict(zip(watched, merged[1:].tolist(), strict=True))
    for name, (_, _, largest) in ranges.items():
        if math.isinf(largest):
            raise ModelError(f"tensor '{name}' overflows float32 on the calibration data, expected finite values")
        if largest >= LARGEST:
            raise ModelError(f"tensor '{name}' reaches {largest:.3g} on the calibration data, expected less than 2**64")
    return {name: ObservedRange(ymax, bool(negative)) for name, (ymax, negative, _) in ranges.items()}


def _update(watched: Mapping[str, RunningPercentile], tensors: Mapping[str, FloatArray], names: Sequence[str]) -> None:
    """One thread's share."""
    for name in names:
        watched[name].update(tensors[name])
