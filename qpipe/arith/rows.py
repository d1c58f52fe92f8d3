"""Integers along rows, the last axis: sums, maxima, look-ups and roots, for numpy, torch and ONNX alike.

What softmax and normalization compute over a row is written over these, once. Every quotient here is of numbers that
are not negative, so that flooring and truncating are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from qpipe.arith.namespace import AnyArray
from qpipe.arith.symbolic import Symbol

if TYPE_CHECKING:
    import torch

R = TypeVar("R", AnyArray, "torch.Tensor", Symbol)
"""Integers of numpy, of torch, or of a graph that is being written: int32 there, and wide enough elsewhere."""

ROOT_BITS: Final = 30
"""Roots are of numbers up to `2**30`, whose square, and that of the next number, int32 holds."""
_STEPS: Final = 4


def row_sum(x: R) -> R:
    """`[..., K] -> [..., 1]`."""
    if isinstance(x, Symbol):
        return x.sum((-1,))
    if isinstance(x, np.ndarray):
        total: AnyArray = x.sum(-1, keepdims=True)
        return total
    return x.sum(-1, keepdim=True)


def row_max(x: R) -> R:
    """`[..., K] -> [..., 1]`."""
    if isinstance(x, Symbol):
        return x.max((-1,))
    if isinstance(x, np.ndarray):
        largest: AnyArray = x.max(-1, keepdims=True)
        return largest
    return x.amax(-1, keepdim=True)


def row_min(x: R) -> R:
    """`[..., K] -> [..., 1]`."""
    if isinstance(x, Symbol):
        return x.min((-1,))
    if isinstance(x, np.ndarray):
        smallest: AnyArray = x.min(-1, keepdims=True)
        return smallest
    return x.amin(-1, keepdim=True)


def look_up(table: AnyArray | Symbol, index: R) -> R:
    """The numbers of a table `[S]` at these places."""
    if isinstance(index, Symbol):
        return index.found_in(table)
    assert isinstance(table, np.ndarray)
    if isinstance(index, np.ndarray):
        found: AnyArray = table[index]
        return found
    import torch

    return torch.from_numpy(table).to(index.device)[index]


def count_reached(x: R, bounds: Sequence[int]) -> R:
    """How many of the bounds each number of x `[..., 1]` reaches: it is as large, or larger."""
    if isinstance(x, Symbol):
        return x.at_least(np.array(bounds, np.int32)).sum((-1,))
    if isinstance(x, np.ndarray):
        reached: AnyArray = (x >= np.array(bounds)).sum(-1, keepdims=True)
        return reached
    import torch

    return (x >= torch.tensor(bounds, device=x.device)).sum(-1, keepdim=True)


def integer_root(x: R) -> R:
    """`floor(sqrt(x))` of x `[..., 1]` from 1 to `2**30`.

    Newton's iteration, from the power of two above the root. It falls until it is there: what is 1 times too large is
    1/4, 1/40, 1/3280 and then 5e-8 times too large, which is less than 1 of the largest root. Where x is one less than
    a square, it may end one too high.
    """
    powers = np.array([1 << bits for bits in range(ROOT_BITS // 2 + 2)], np.int32)
    root = look_up(powers, count_reached(x, [1 << 2 * bits for bits in range(ROOT_BITS // 2 + 1)]))
    for _ in range(_STEPS):
        root = (root + x // root) // 2
    return root - count_reached(root * root - x, [1])
