"""What layers with weights multiply, in first and second moments: how much an error of each weight matters.

Of the rows of a layer's inputs (patches of an image, say) as many are drawn as its weights need, evenly from some
images: their means and `E[x x^T]` after rounding to the layer's grid, and the means before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qpipe.arith.feedback import WIDEST
from qpipe.arith.namespace import Float64Array, FloatArray
from qpipe.arith.quantize import dequantize, quantize
from qpipe.arith.spec import QuantSpec
from qpipe.calibration.pieces import Pieces
from qpipe.data.inputs import Inputs, count_of
from qpipe.ops import product_of

ROWS = 12
"""Times the weights of a row, that are drawn: from ten on moments don't get better than what they are used for."""
_FEWEST = 2048


@dataclass
class RowMoments:
    """Of the rows `[G, K]` of a layer's input: means before rounding and behind it, and `E[x x^T]` behind it."""

    count: int
    mean: Float64Array
    rounded_mean: Float64Array
    second: Float64Array

    @property
    def normalized(self) -> RowMoments:
        """Sums as means."""
        return RowMoments(1, self.mean / self.count, self.rounded_mean / self.count, self.second / self.count)


def measure_rows(
    model: ir.Model, read: Mapping[ir.Node, tuple[str, QuantSpec]], images: Inputs, *, seed: int = 0
) -> dict[ir.Node, RowMoments]:
    """Of each node (Conv, Gemm, MatMul) that says what it multiplies.

    Args:
        model: the float network.
        read: node -> the tensor of the float network that it reads, and the grid that it reads it on.
        images: `[N, C, H, W]`.
        seed: of the draw.
    """
    found: dict[ir.Node, RowMoments] = {}
    rng = np.random.default_rng(seed)
    names = list(dict.fromkeys(name for name, _ in read.values()))
    for tensors, length in Pieces(model, names).run(images):
        for node, (name, grid) in read.items():
            own = _moments(node, tensors[name], grid, length / count_of(images), rng)
            if own is not None and node in found:
                before = found[node]
                own = RowMoments(
                    before.count + own.count, before.mean + own.mean, before.rounded_mean + own.rounded_mean,
                    before.second + own.second,
                )  # fmt: skip
            if own is not None:
                found[node] = own
    return {node: sums.normalized for node, sums in found.items()}


def _moments(
    node: ir.Node, x: FloatArray, grid: QuantSpec, share: float, rng: np.random.Generator
) -> RowMoments | None:
    """Sums over the rows that are drawn of this piece."""
    op = product_of(node)
    one = op.drawn_rows(node, x, 1, rng)
    if one is None:
        return None
    count = max(int(share * max(ROWS * min(one.shape[2], WIDEST), _FEWEST)), 1)
    rows = op.drawn_rows(node, x, count, rng)
    assert rows is not None
    rounded = dequantize(quantize(rows, grid), grid).astype(np.float32)
    second = np.matmul(np.swapaxes(rounded, 1, 2), rounded).astype(np.float64)
    return RowMoments(count, rows.sum(axis=1, dtype=np.float64), rounded.sum(axis=1, dtype=np.float64), second)
