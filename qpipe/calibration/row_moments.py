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
    """Of the rows `[G, K]` of a layer's input: means before rounding and behind it, and `E[x x^T]` behind it.

    halves: the latter of every other sample and of the rest, `[2, G, K, K]`: what holds for one must for the other.
    """

    counts: Float64Array
    mean: Float64Array
    rounded_mean: Float64Array
    halves: Float64Array

    @property
    def second(self) -> Float64Array:
        """`E[x x^T]` of all, `[G, K, K]`."""
        whole: Float64Array = self.halves.mean(axis=0)
        return whole

    def add(self, half: int, rows: FloatArray, rounded: FloatArray) -> None:
        """Sum up rows `[G, n, K]` of a half."""
        self.counts[half] += rows.shape[1]
        self.mean += rows.sum(axis=1, dtype=np.float64)
        self.rounded_mean += rounded.sum(axis=1, dtype=np.float64)
        self.halves[half] += np.matmul(np.swapaxes(rounded, 1, 2), rounded)

    @property
    def normalized(self) -> RowMoments:
        """Sums as means; of a half without samples those of the other."""
        halves = self.halves / np.maximum(self.counts, 1)[:, None, None, None]
        if not self.counts.all():
            halves[:] = halves.sum(axis=0)
        total = self.counts.sum()
        return RowMoments(np.ones(2), self.mean / total, self.rounded_mean / total, halves)


def measure_rows(
    model: ir.Model, read: Mapping[ir.Node, tuple[str, QuantSpec]], images: Inputs, *, seed: int = 0
) -> dict[ir.Node, RowMoments]:
    """Of each node (Conv, Gemm, MatMul) that says what it multiplies.

    Args:
        model: the float network.
        read: node -> the tensor of the float network that it reads, and the grid that it reads it on.
        images: `[N, C, H, W]`, or arrays by name.
        seed: of the draw.
    """
    found: dict[ir.Node, RowMoments] = {}
    rng = np.random.default_rng(seed)
    names = list(dict.fromkeys(name for name, _ in read.values()))
    begin = 0
    for tensors, length in Pieces(model, names).run(images):
        for node, (name, grid) in read.items():
            # A tensor that has no axis of samples is all of one.
            is_rows = len(tensors[name]) == length
            for half in (0, 1) if is_rows else (begin % 2,):
                x = tensors[name][(half - begin) % 2 :: 2] if is_rows else tensors[name]
                if len(x):
                    share = (len(x) if is_rows else length) / count_of(images)
                    _add(found, node, x, grid, half, share, rng)
        begin += length
    return {node: sums.normalized for node, sums in found.items()}


def _add(
    found: dict[ir.Node, RowMoments],
    node: ir.Node,
    x: FloatArray,
    grid: QuantSpec,
    half: int,
    share: float,
    rng: np.random.Generator,
) -> None:
    """Rows that are drawn of x, which is so much of all."""
    op = product_of(node)
    groups, _, width = op.drawn_rows(node, x, 1, rng).shape
    rows = op.drawn_rows(node, x, max(int(share * max(ROWS * min(width, WIDEST), _FEWEST)), 1), rng)
    if node not in found:
        zeros = np.zeros((groups, width))
        found[node] = RowMoments(np.zeros(2), zeros, zeros.copy(), np.zeros((2, groups, width, width)))
    found[node].add(half, rows, dequantize(quantize(rows, grid), grid).astype(np.float32))
