"""The bits of stochastic rounding: keyed by what is rounded, uniform and independent."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from qpipe.arith.mls.generators import RandomParts, generator_of

KEY: dict[str, Any] = {"seed": 1, "update": 2, "batch": 3, "process": 4, "layer": "conv", "role": "error"}


def first(**key: Any) -> list[int]:
    return [int(k) for k in RandomParts(generator_of(**key), 15).take(8)]


def test_the_same_key_begins_the_same_stream() -> None:
    assert first(**KEY) == first(**KEY)


@pytest.mark.parametrize(
    ("name", "other"),
    [("seed", 2), ("update", 3), ("batch", 2), ("process", 0), ("layer", "conv2"), ("role", "weight")],
)
def test_each_part_of_the_key_begins_another(name: str, other: Any) -> None:
    assert first(**KEY) != first(**{**KEY, name: other})


def test_neighbours_in_the_key_are_not_confused() -> None:
    assert first(**{**KEY, "update": 3, "batch": 2}) != first(**KEY)


@pytest.mark.parametrize("bits", [14, 15])
@pytest.mark.parametrize("count", [1, 3, 5000])
def test_parts_are_odd_multiples_between_the_halves(bits: int, count: int) -> None:
    parts = RandomParts(torch.Generator().manual_seed(0), bits)
    for _ in range(3):
        taken = parts.take(count).numpy().astype(np.int64)
        assert taken.shape == (count,)
        assert (taken % 2 ** (16 - bits) == 2 ** (15 - bits)).all()


def test_a_stream_may_be_taken_in_any_lengths() -> None:
    """Later numbers are the first ones of their pool XOR a new row, also where a later stretch is longer than all."""
    parts = RandomParts(torch.Generator().manual_seed(0), 15)
    first, second, third = (parts.take(count).numpy().copy() for count in (9000, 4096, 20_000))
    differs = first[:4096] ^ second
    assert differs.any()
    assert len(np.unique(third)) > len(third) / 2
    again = RandomParts(torch.Generator().manual_seed(0), 15)
    assert all((again.take(len(a)).numpy() == a).all() for a in (first, second, third))


def test_bits_are_uniform_and_independent() -> None:
    """Each bit alone, and with each of the numbers 1, 4 and a row further; in one row, of two and of three stretches.

    (Of whole stretches a product repeats with the new row: four numbers are not independent.) Six deviations of fair
    coins, of which some thousand are thrown, the same ones each time.
    """
    count, row = 1 << 18, 4096
    parts = RandomParts(torch.Generator().manual_seed(9), 15)
    stretches = [coins(parts.take(count).numpy()) for _ in range(3)]
    for one in stretches:
        assert (np.abs(one.sum(0)) < 6 * math.sqrt(count)).all()
        for lag in (1, 4, row):
            assert (np.abs(one[lag:].T @ one[:-lag]) < 6 * math.sqrt(count)).all()
    rows = [one[:row] for one in stretches]
    for one, other in combinations(rows, 2):
        assert (np.abs(one.T @ other) < 6 * math.sqrt(row)).all()
    assert (np.abs((rows[0] * rows[1]).T @ rows[2]) < 6 * math.sqrt(row)).all()


def coins(taken: np.ndarray) -> np.ndarray:
    """The 15 random bits as -1 and 1, `[count, 15]`."""
    return (taken.view(np.uint16)[:, None] >> np.arange(1, 16) & 1).astype(np.float64) * 2 - 1
