"""Ridge least squares from moments that are summed up: what a linear map of rows comes nearest to what is asked for.

Of rows a `[n, K]` and targets t `[n, C]`, centred at their means,

    W = (A^T A + lambda I)^-1 A^T T,    lambda = RIDGE mean diag(A^T A),    b = mean t - W mean a

and what W and b leave, `E |W a + b - t|^2`, follows from the same moments, so that rows need not be kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qpipe.arith.namespace import Float64Array, FloatArray
from qpipe.calibration.shard import Shard

RIDGE = 1e-3


@dataclass(frozen=True)
class Fitted:
    """weight `[C, K]`, bias `[C]`; and of `weight a`, on the rows that it was fitted to, mean and variance `[C]`."""

    weight: Float64Array
    bias: Float64Array
    mean: Float64Array
    variance: Float64Array


@dataclass
class NormalEquations:
    """Sums over rows: how many, their first and second moments, those of the targets, and their products."""

    count: Float64Array
    row: Float64Array
    target: Float64Array
    rows: Float64Array
    cross: Float64Array
    targets: Float64Array

    @classmethod
    def none(cls, width: int, channels: int) -> NormalEquations:
        """Of no row yet, of K = width and C = channels."""
        zeros = np.zeros
        return cls(
            zeros(()), zeros(width), zeros(channels), zeros((width, width)), zeros((width, channels)), zeros(channels)
        )

    def add(self, rows: FloatArray, targets: FloatArray) -> None:
        """Sum up rows `[n, K]` and targets `[n, C]`, in float64."""
        a, t = rows.astype(np.float64), targets.astype(np.float64)
        self.count = self.count + len(a)
        self.row += a.sum(axis=0)
        self.target += t.sum(axis=0)
        self.rows += a.T @ a
        self.cross += a.T @ t
        self.targets += np.square(t).sum(axis=0)

    def merged(self, other: NormalEquations) -> NormalEquations:
        """Of both sets of rows together."""
        return NormalEquations(*(own + theirs for own, theirs in zip(self._sums, other._sums, strict=True)))

    def shared(self, shard: Shard) -> NormalEquations:
        """The same in all processes, which run the same images: another machine may add up in another order."""
        return NormalEquations(*map(shard.largest, self._sums))

    @property
    def _sums(self) -> tuple[Float64Array, ...]:
        return self.count, self.row, self.target, self.rows, self.cross, self.targets

    @property
    def _centred(self) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Covariances of rows, of rows and targets, and the targets' variances."""
        row, target = self.row / self.count, self.target / self.count
        rows = self.rows / self.count - np.outer(row, row)
        return rows, self.cross / self.count - np.outer(row, target), self.targets / self.count - target**2

    def solve(self, ridge: float = RIDGE) -> Fitted:
        """The map of least squares; of rows that never vary, none but the bias."""
        rows, cross, _ = self._centred
        row, target = self.row / self.count, self.target / self.count
        size = max(float(np.trace(rows)) / len(rows), np.finfo(np.float64).tiny)
        weight = np.linalg.solve(rows + ridge * size * np.eye(len(rows)), cross).T.astype(np.float64)
        variance = np.maximum(np.einsum("ck,kl,cl->c", weight, rows, weight, optimize=True), 0)
        return Fitted(weight, target - weight @ row, weight @ row, variance)

    def error(self, fitted: Fitted) -> float:
        """What a map leaves of these targets: the mean square, in parts of their variance."""
        rows, cross, targets = self._centred
        of_variance = targets - 2 * np.einsum("ck,kc->c", fitted.weight, cross)
        of_variance += np.einsum("ck,kl,cl->c", fitted.weight, rows, fitted.weight, optimize=True)
        shift = (fitted.weight @ self.row - self.target) / self.count + fitted.bias
        return float((of_variance + shift**2).sum() / max(float(targets.sum()), np.finfo(np.float64).tiny))
