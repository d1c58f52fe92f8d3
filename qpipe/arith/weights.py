"""Weights as matrices, and the pair condition of their codes.

A weight matrix is `[C, K]`: output channels by what one output sums over, in the order in which
integer kernels walk it (channels fastest, see `as_rows`).
"""

from __future__ import annotations

from qpipe.arith.namespace import A, namespace

INT16_MAX = 2**15 - 1
ZERO_EXPONENT = -7  # of a channel that is all zeros: any would do
NO_FLOOR = -126  # the exponent of the smallest normal float32


def pair_limit(stored_max: int) -> int:
    """The largest `|w0| + |w1|` whose two products with uint8 codes up to `stored_max` fit int16 (128 for 255)."""
    # Where all codes are 0, as behind a table of zeros, every pair is safe.
    return INT16_MAX // max(stored_max, 1)


def as_rows(weight: A) -> A:
    """`[O, I, *kernel]` as `[O, K]` with I fastest: the order of im2col in an NHWC kernel."""
    return namespace(weight).moveaxis(weight, 1, -1).reshape((weight.shape[0], -1))


def rows_along(weight: A, axis: int) -> A:
    """As `[C, K]`, a weight with its output channels along `axis`; only a matrix has them elsewhere than first."""
    return as_rows(weight) if axis == 0 else weight.T


def from_rows(rows: A, shape: tuple[int, ...]) -> A:
    """The inverse of `as_rows`."""
    return namespace(rows).moveaxis(rows.reshape((shape[0], *shape[2:], shape[1])), -1, 1)


def trim_pairs(codes: A, limit: int) -> A:
    """Codes `[C, K]` with half of the excess taken off each weight of each unsafe pair (0, 1), (2, 3), ..."""
    xp = namespace(codes)
    even, odd = _pairs(codes)
    excess = pair_excess(codes, limit)
    trimmed = codes + 0
    trimmed[:, : 2 * odd.shape[1] : 2] = even - xp.sign(even) * xp.ceil(excess / 2)
    trimmed[:, 1::2] = odd - xp.sign(odd) * xp.floor(excess / 2)
    return trimmed


def pair_excess(codes: A, limit: int) -> A:
    """By how much `|w0| + |w1|` of neighbours of equal sign is over the limit, `[C, K // 2]`; 0 where it is not."""
    return namespace(codes).clip(pair_sums(codes) - limit, 0, None)


def pair_sums(rows: A) -> A:
    """`|w0| + |w1|` of neighbours of equal sign, `[C, K // 2]`; 0 for others: their products don't add up."""
    even, odd = _pairs(rows)
    return abs(even + odd) * (even * odd > 0)


def _pairs(codes: A) -> tuple[A, A]:
    odd = codes[:, 1::2]
    return codes[:, : 2 * odd.shape[1] : 2], odd
