"""Round weights one after the other, each for what rounding those before it has done to the layer's output.

With H = E[x x^T] of what a layer multiplies, an error d of its weights adds d H d^T to its output's mean square.
Rounding to the nearest keeps |d| small; what is needed is a small d H d^T. So weights are rounded along K in order, and
those that are not rounded yet make up for the error of each as well as they can: by the rows of the Cholesky factor of
H**-1. A pair of neighbours that must not exceed a limit gives up its excess in the same way, and the others make up.

Source: Frantar et al. 2023, *GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers*,
algorithm 1, here with pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qpipe.arith.namespace import AnyArray, Float64Array

DAMPING = 0.01
"""Of the mean of H's diagonal, added to it: directions that the data hardly have are not bent at will."""
WIDEST = 1024
"""Weights that make up for each other; a longer row is several such runs."""
_BLOCK = 64  # columns that are updated at once


@dataclass(frozen=True)
class OutputError:
    """d H d^T of a layer, `moments` being H, `[K, K]`, and what rounding with feedback needs of it."""

    moments: Float64Array

    @cached_property
    def _factors(self) -> list[tuple[slice, Float64Array]]:
        width = len(self.moments)
        runs = [slice(begin, min(begin + WIDEST, width)) for begin in range(0, width, WIDEST)]
        return [(run, _factor(self.moments[run, run])) for run in runs]

    def of(self, rows: AnyArray, codes: Float64Array) -> Float64Array:
        """The mean square of each output, `[C]`, in squares of its step."""
        difference = rows - codes
        error: Float64Array = np.maximum(((difference @ self.moments) * difference).sum(axis=1), 0.0)
        return error

    def round(self, rows: AnyArray, *, qmax: int, pair_limit: int | None) -> Float64Array:
        """Integers `[C, K]` of magnitude up to qmax for rows in steps of their grids.

        pair_limit: of `|w0| + |w1|` of neighbours of equal sign along K; None where it is waived.
        """
        parts = [_run(rows[:, run].astype(np.float64), factor, qmax, pair_limit) for run, factor in self._factors]
        return np.concatenate(parts, axis=1)


def _run(rows: Float64Array, factor: Float64Array, qmax: int, pair_limit: int | None) -> Float64Array:
    codes = np.zeros_like(rows)
    width = rows.shape[1]
    for begin in range(0, width, _BLOCK):
        end = min(begin + _BLOCK, width)
        errors = np.empty((len(rows), end - begin))
        for k in range(begin, end):
            partner = None if pair_limit is None else k + 1 if k % 2 == 0 else k - 1
            code = np.clip(np.round(rows[:, k]), -qmax, qmax)
            if partner is not None and partner < width:
                assert pair_limit is not None
                code = _within(code, k < partner, rows[:, partner], codes[:, partner], qmax, pair_limit)
            codes[:, k] = code
            errors[:, k - begin] = error = (rows[:, k] - code) / factor[k, k]
            rows[:, k + 1 : end] -= error[:, None] * factor[k, k + 1 : end]
        rows[:, end:] -= errors @ factor[begin:end, end:]
    return codes


def _within(
    code: Float64Array, is_first: bool, other: Float64Array, rounded: Float64Array, qmax: int, limit: int
) -> Float64Array:
    """The first of a pair gives up half of the excess that it would have, the second what is left."""
    if is_first:
        rounded = np.clip(np.round(other), -qmax, qmax)
        excess = np.where(code * rounded > 0, np.abs(code + rounded) - limit, 0).clip(0)
        first: Float64Array = code - np.sign(code) * np.ceil(excess / 2)
        return first
    room = np.where(code * rounded > 0, limit - np.abs(rounded), qmax)
    second: Float64Array = np.sign(code) * np.minimum(np.abs(code), room)
    return second


def _factor(moments: Float64Array) -> Float64Array:
    """The upper Cholesky factor of the inverse of H, damped."""
    size = len(moments)
    damping = DAMPING * float(np.trace(moments)) / size or 1.0
    inverse = np.linalg.inv(moments + damping * np.eye(size))
    factor: Float64Array = np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float64)
    return factor
