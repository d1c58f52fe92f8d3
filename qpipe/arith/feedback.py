"""Round weights one after the other, each for what rounding those before it has done to the layer's output.

With H = E[x x^T] of what a layer multiplies, an error d of its weights adds d H d^T to its output's mean square.
Rounding to the nearest keeps |d| small; what is needed is a small d H d^T. Of H = U U^T with an upper triangle U it is
the sum over k of `(d_k U_kk + sum over j < k of d_j U_jk)**2`. So weights are rounded along K in order, each after what
the errors before it ask of it: that makes its term as small as one weight can. A pair of neighbours that must not
exceed a limit gives up its excess in the same way, and the others make up.

Source: Frantar et al. 2023, *GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers*,
algorithm 1, here with pairs. It takes U from the inverse of H, which gives the same codes (Babai's nearest plane; Chen
et al. 2025, *The Geometry of LLM Quantization: GPTQ as Babai's Nearest Plane Algorithm*) and takes longer.
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
_BLOCK = 32  # columns that are updated at once


@dataclass(frozen=True)
class OutputError:
    """d H d^T of a layer, `moments` being H of each group, `[G, K, K]`, and what rounding with feedback needs of it.

    Rows are `[..., C, K]`, in steps of their grids: each group has an equal share of the C, in order.
    """

    moments: Float64Array

    @cached_property
    def _asked(self) -> list[tuple[slice, Float64Array]]:
        width = self.moments.shape[-1]
        runs = [slice(begin, min(begin + WIDEST, width)) for begin in range(0, width, WIDEST)]
        return [(run, _asked_of(self.moments[:, run, run])) for run in runs]

    def of(self, rows: AnyArray, codes: Float64Array) -> Float64Array:
        """The mean square of each output, `[..., C]`, in squares of its step."""
        difference = self._grouped(rows - codes)
        error: Float64Array = np.maximum(((difference @ self.moments) * difference).sum(axis=-1), 0.0)
        return self._apart(error[..., None], rows.shape)[..., 0]

    def round(self, rows: AnyArray, *, qmax: int, pair_limit: int | None) -> Float64Array:
        """Integers `[..., C, K]` of magnitude up to qmax.

        pair_limit: of `|w0| + |w1|` of neighbours of equal sign along K; None where it is waived.
        """
        columns = np.swapaxes(self._grouped(rows), 1, 2)
        parts = [_run(columns[:, run].astype(np.float64), asked, qmax, pair_limit) for run, asked in self._asked]
        return self._apart(np.swapaxes(np.concatenate(parts, axis=1), 1, 2), rows.shape)

    def _grouped(self, rows: AnyArray) -> AnyArray:
        """`[G, all rows of the group, K]`."""
        groups, width = self.moments.shape[:2]
        found: AnyArray = np.swapaxes(rows.reshape(-1, groups, rows.shape[-2] // groups, width), 0, 1)
        return found.reshape(groups, -1, width)

    def _apart(self, grouped: Float64Array, shape: tuple[int, ...]) -> Float64Array:
        """The inverse, of rows `[..., C, K]` of this shape or of one number for each."""
        groups, _, width = grouped.shape
        found: Float64Array = np.swapaxes(grouped.reshape(groups, -1, shape[-2] // groups, width), 0, 1)
        return found.reshape(*shape[:-1], width)


def _run(columns: Float64Array, asked: Float64Array, qmax: int, pair_limit: int | None) -> Float64Array:
    """Codes of `[G, K, rows]`; it is what weights should be after those before them."""
    codes, errors = np.empty_like(columns), np.empty_like(columns)
    moved = columns.copy()
    width = columns.shape[1]
    for begin in range(0, width, _BLOCK):
        end = min(begin + _BLOCK, width)
        for k in range(begin, end):
            partner = None if pair_limit is None else k + 1 if k % 2 == 0 else k - 1
            code = np.clip(np.round(moved[:, k]), -qmax, qmax)
            if partner is not None and partner < width:
                assert pair_limit is not None
                # What the next would be, if this one were not rounded.
                other = moved[:, partner] + asked[:, k, partner, None] * (columns[:, k] - moved[:, k])
                code = _within(code, k < partner, other, codes[:, partner], qmax, pair_limit)
            codes[:, k] = code
            errors[:, k] = error = columns[:, k] - code
            moved[:, k + 1 : end] += asked[:, k, k + 1 : end, None] * error[:, None]
        moved[:, end:] += np.swapaxes(asked[:, begin:end, end:], 1, 2) @ errors[:, begin:end]
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


def _asked_of(moments: Float64Array) -> Float64Array:
    """Of H, damped: how much of the error of each weight (second axis) is added to each of those behind it (third)."""
    size = moments.shape[-1]
    damping = DAMPING * np.trace(moments, axis1=1, axis2=2)[:, None, None] / size
    damped = moments + np.where(damping > 0, damping, 1.0) * np.eye(size)
    # The Cholesky factor of the last row first, turned again, is the upper one.
    upper = np.linalg.cholesky(damped[:, ::-1, ::-1])[:, ::-1, ::-1].astype(np.float64)
    asked: Float64Array = upper / np.diagonal(upper, axis1=1, axis2=2)[:, None, :]
    return asked
