"""The bits of stochastic rounding: keyed by what is rounded, uniform and independent."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from qpipe.arith.mls.generators import RandomBits, generator_of

KEY: dict[str, Any] = {"seed": 1, "update": 2, "batch": 3, "process": 4, "layer": "conv", "role": "error"}


def first(**key: Any) -> list[int]:
    return [int(k) for k in RandomBits(generator_of(**key)).take(8)]


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


def test_a_stream_goes_on() -> None:
    bits = RandomBits(torch.Generator().manual_seed(0))
    parts = [bits.take(count).tolist() for count in (64, 64, 64)]
    assert all(a != b for a, b in pairwise(parts))


def test_bits_are_uniform_and_those_of_neighbours_independent() -> None:
    """Each bit alone, and with each bit of the next number and of the one four further, which is another draw's.

    Six deviations of a fair coin; some 800 coins are thrown, all the same ones each time.
    """
    count = 1 << 18
    taken = RandomBits(torch.Generator().manual_seed(9)).take(count).numpy().view(np.uint16)
    bits = (taken[:, None] >> np.arange(16) & 1).astype(np.float64) * 2 - 1
    allowed = 6 * math.sqrt(count)
    assert (np.abs(bits.sum(0)) < allowed).all()
    for lag in (1, 4):
        assert (np.abs(bits[lag:].T @ bits[:-lag]) < allowed).all()
