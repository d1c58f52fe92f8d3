"""The squared error that each of a few grids leaves of a tensor, over the calibration batches, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx_ir as ir

from qpipe.arith.quantize import dequantize, quantize
from qpipe.arith.spec import QuantSpec
from qpipe.arith.table import CodeTable, GridOrTable, table_index
from qpipe.calibration.percentile import FloatArray
from qpipe.calibration.pieces import Pieces
from qpipe.calibration.shard import ALONE, Float64Array, Shard
from qpipe.errors import DataError
from qpipe.processes import usable_cores

_STRIP = 2**16  # values that are quantized at a time: they stay in the processor's cache


def least_error(
    model: ir.Model,
    candidates: Mapping[str, Sequence[QuantSpec]],
    batches: Iterable[FloatArray],
    *,
    shard: Shard = ALONE,
) -> dict[str, int]:
    """Which of each named value's grids (equally many for all) leaves the least squared error; of equals the first.

    Args:
        model: the float network, one input.
        candidates: value name -> grids.
        batches: float32 inputs `[N, C, H, W]`.
        shard: which of the batches this process runs; the sums are those of all batches in every process.
    """
    pieces = Pieces(model, list(candidates))
    shape = (len(candidates), len(next(iter(candidates.values()), ())))
    total, seen = np.zeros(shape), False
    with ThreadPoolExecutor(usable_cores()) as pool:
        rows = (_batch_errors(pieces, candidates, batch, pool).reshape(-1) for batch in shard.share(batches))
        for row in shard.in_order(rows, total.size):
            total, seen = total + row.reshape(shape), True
    if not seen:
        raise DataError("calibration data: no batch, expected at least one")
    return dict(zip(candidates, total.argmin(axis=1).tolist(), strict=True))


def squared_errors(
    tensor: FloatArray, grids: Sequence[GridOrTable], function: Callable[[Any], Any] | None = None
) -> Float64Array:
    """`sum((x - q(x))**2)` on each grid; of tables what they err by as those of the function."""
    flat = tensor.reshape(-1)
    errors = np.zeros(len(grids))
    for start in range(0, flat.size, _STRIP):
        x = flat[start : start + _STRIP]
        real = x if function is None else function(x)
        for index, grid in enumerate(grids):
            # Scales are powers of two, so the difference is rounded once, and what is small is exact.
            errors[index] += np.square(real - _rounded(x, grid), dtype=np.float64).sum()
    return errors


def _rounded(x: FloatArray, grid: GridOrTable) -> FloatArray:
    if isinstance(grid, CodeTable):
        return grid.levels()[table_index(x, grid.rounded_to)]
    return dequantize(quantize(x, grid), grid)


def _batch_errors(
    pieces: Pieces, candidates: Mapping[str, Sequence[QuantSpec]], batch: FloatArray, pool: ThreadPoolExecutor
) -> Float64Array:
    """One batch's sums, a row for each value; its pieces are added in order."""
    errors = np.zeros((len(candidates), len(next(iter(candidates.values()), ()))))
    for tensors, _ in pieces.run(batch):
        errors += np.array(list(pool.map(squared_errors, (tensors[name] for name in candidates), candidates.values())))
    return errors
