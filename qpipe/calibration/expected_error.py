"""The squared error that grids are expected to leave of a tensor of other samples than those that were seen.

Others are as those that were seen, but for their size: a factor `exp(s z)` with a normal z, which is what a kernel over
the logarithms of the samples' sizes says (Silverman 1986, *Density Estimation*). A grid that ends where the samples do
cuts off what larger ones have beyond it, one that ends later rounds all of them more coarsely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qpipe.arith.namespace import Float64Array
from qpipe.arith.quantize import dequantize, quantize
from qpipe.arith.spec import QuantSpec
from qpipe.calibration.samples import Sample

COHERENT = 8.0
"""By this much the square of what is cut off counts more: rounding errors are independent and a sum averages over them,
while what neighbours lose of a peak has one sign. Chosen by measurement, of 1, 4, 8 and 30.
"""
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(5)  # of the normal distribution
_ROUNDED = 2**13  # values that rounding is measured on


def expected_errors(
    sample: Sample,
    grids: Sequence[QuantSpec],
    *,
    spread: float,
    factor: float = 1.0,
    limit: float = np.inf,
    function: Callable[[Any], Any] | None = None,
) -> Float64Array:
    """Of the tensor divided by a factor, on each grid: in parts of its power.

    Args:
        sample: of the tensor.
        grids: of 8 bits or fewer.
        spread: the deviation s of the logarithms of others' sizes; 0 takes them as those that were seen.
        limit: the largest magnitude that any can have, in the tensor's own unit.
        function: what is computed of it, where that is what counts.
    """
    of = function or (lambda x: x)
    within, outside = sample.within, sample.outside
    times = max(sample.count - outside.size, 0) / max(within.size, 1)
    values = np.concatenate([within, outside]) / np.float32(factor)
    weights = np.concatenate([np.full(within.size, times, np.float32), np.ones(outside.size, np.float32)])
    few = values[: within.size][:: max(within.size // _ROUNDED, 1)]
    found = np.zeros(len(grids))
    # The least end that any grid has says which values can be cut off at all.
    largest = max(float(np.exp(_NODES[-1] * spread)), 1.0)
    ends = [((grid.qmin - 0.5) * grid.scale, (grid.qmax + 0.5) * grid.scale) for grid in grids]
    is_far = (values * largest < max(low for low, _ in ends)) | (values * largest > min(high for _, high in ends))
    far, counts = values[is_far], weights[is_far]
    for index, (grid, (low, high)) in enumerate(zip(grids, ends, strict=True)):
        rounded = dequantize(quantize(few, grid), grid)
        error = np.square(of(few.clip(low, high)) - of(rounded)).sum(dtype=np.float64)
        rounding = float(error) * times * within.size / max(few.size, 1)
        cut = 0.0
        for node, weight in zip(_NODES, _WEIGHTS / _WEIGHTS.sum(), strict=True):
            x = (far * np.float32(np.exp(node * spread))).clip(-limit / factor, limit / factor)
            cut += weight * float((counts * np.square(of(x) - of(x.clip(low, high)))).sum(dtype=np.float64))
        found[index] = rounding + COHERENT * cut
    power = float((weights * np.square(of(values))).sum(dtype=np.float64))
    return found / (power or 1.0)
