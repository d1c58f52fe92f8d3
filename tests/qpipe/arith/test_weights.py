"""Weights as matrices, and the pair condition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from qpipe.arith import weights
from qpipe.arith.weights import trim_pairs

RNG = np.random.default_rng(0)


def test_trim_takes_half_of_the_excess_off_each() -> None:
    codes = np.array([[127.0, 127, -127, -20, 100, -100, 127, 2, 50]])
    assert trim_pairs(codes, 128).tolist() == [[64, 64, -117, -11, 100, -100, 126, 2, 50]]
    assert weights.pair_excess(codes, 128).tolist() == [[126, 19, 0, 1]]


def test_pair_limits() -> None:
    """Two products with the largest code just fit int16."""
    assert weights.pair_limit(255) == 128
    assert weights.pair_limit(0) >= 2 * 127, "no product of codes that are all 0 is too large"
    for stored_max in range(1, 256):
        limit = weights.pair_limit(stored_max)
        assert limit * stored_max <= 2**15 - 1 < (limit + 1) * stored_max


@pytest.mark.parametrize("shape", [(4, 3, 3, 2), (4, 1, 5, 5), (2, 6, 1), (5, 2, 2, 3, 2)])
def test_rows_walk_channels_fastest(shape: tuple[int, ...]) -> None:
    weight = RNG.standard_normal(shape).astype(np.float32)
    rows = weights.as_rows(weight)
    assert rows.shape == (shape[0], math.prod(shape[1:]))
    np.testing.assert_array_equal(rows[:, : shape[1]], weight[(slice(None), slice(None), *([0] * (len(shape) - 2)))])
    np.testing.assert_array_equal(weights.from_rows(rows, shape), weight)
    tensor = weights.as_rows(torch.from_numpy(weight))
    np.testing.assert_array_equal(tensor.numpy(), rows)
    np.testing.assert_array_equal(weights.from_rows(tensor, shape).numpy(), weight)
