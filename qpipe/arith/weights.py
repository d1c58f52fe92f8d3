"""Weights as matrices, and the pair condition of their codes.

`xp` is numpy or torch. A weight matrix is `[C, K]`: output channels by what one output sums over, in the order in which
integer kernels walk it (channels fastest, see `as_rows`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

INT16_MAX = 2**15 - 1
ZERO_EXPONENT = -7  # of a channel that is all zeros: any would do
NO_FLOOR = -126  # the exponent of the smallest normal float32


def pair_limit(stored_max: int) -> int:
    """The largest `|w0| + |w1|` whose two products with uint8 codes up to `stored_max` fit int16 (128 for 255)."""
    return INT16_MAX // stored_max


def as_rows(weight: Any) -> Any:
    """`[O, I, *kernel]` as `[O, K]` with I fastest: the order of im2col in an NHWC kernel."""
    order = (0, *range(2, weight.ndim), 1)
    return permute(weight, order).reshape(weight.shape[0], -1)


def rows_along(weight: Any, axis: int) -> Any:
    """As `[C, K]`, a weight with its output channels along `axis`; only a matrix has them elsewhere than first."""
    return as_rows(weight) if axis == 0 else weight.T


def from_rows(rows: Any, shape: tuple[int, ...]) -> Any:
    """The inverse of `as_rows`."""
    stored = (shape[0], *shape[2:], shape[1])
    return permute(rows.reshape(stored), (0, len(shape) - 1, *range(1, len(shape) - 1)))


def permute(x: Any, order: tuple[int, ...]) -> Any:
    """`x` with its axes in this order, for numpy and torch."""
    return x.transpose(order) if isinstance(x, np.ndarray) else x.permute(order)


def trim_pairs(codes: Any, limit: Any, xp: Any = np) -> Any:
    """Codes `[C, K]` with half of the excess taken off each weight of each unsafe pair (0, 1), (2, 3), ..."""
    even, odd = _pairs(codes)
    excess = pair_excess(codes, limit, xp)
    trimmed = codes + 0
    trimmed[:, : 2 * odd.shape[1] : 2] = even - xp.sign(even) * xp.ceil(excess / 2)
    trimmed[:, 1::2] = odd - xp.sign(odd) * xp.floor(excess / 2)
    return trimmed


def pair_excess(codes: Any, limit: Any, xp: Any = np) -> Any:
    """By how much `|w0| + |w1|` of neighbours of equal sign is over the limit, `[C, K // 2]`; 0 where it is not."""
    return xp.clip(pair_sums(codes) - limit, 0, None)


def pair_sums(rows: Any) -> Any:
    """`|w0| + |w1|` of neighbours of equal sign, `[C, K // 2]`; 0 for others: their products don't add up."""
    even, odd = _pairs(rows)
    return abs(even + odd) * (even * odd > 0)


def _pairs(codes: Any) -> tuple[Any, Any]:
    odd = codes[:, 1::2]
    return codes[:, : 2 * odd.shape[1] : 2], odd
