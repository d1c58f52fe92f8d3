"""LQ-Net's quantizers: levels that a learned basis spans, Q(x, v) = v^T e_l, the level nearest to x.

    weights:      e in {-1, 1}**K, a basis v in R**K per output channel        levels  sum +- v_i
    activations:  e in {0, 1}**K, a basis per layer                            levels  sum of some v_i

The basis is learned by QEM (quantization error minimization), two steps of an alternation in every forward of training:

    B = codes of the levels nearest to x, v fixed          v* = (B B^T)^-1 B x, B fixed          v <- 0.9 v + 0.1 v*

What is computed with are integers: a weight's levels are rounded to at most `limit` steps of a power of two per
channel, an activation's to uint8 steps of its layer's grid, in training as in the file. x goes to the nearest of these.

What the paper leaves open: (B B^T) may be singular, where a v_i is in use for all x or for none; a small term
delta |v* - v|**2 keeps such a v_i where it was. It can't make an iteration raise the error. An activation's x is
what its 8-bit quantizer gives, so that 256 counts are all that is known of a batch.

Source: Zhang et al. 2018, *LQ-Nets*, sections 3.1 and 3.2, equations 3 to 8 and Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from qpipe.arith.power_of_two import rounded_log2
from qpipe.arith.spec import STORAGE_MAX, QuantSpec
from qpipe.arith.table import SIZE, CodeTable
from qpipe.arith.weight_quantizer import WEIGHT_BITS
from qpipe.arith.weights import ZERO_EXPONENT

MOMENTUM = 0.9  # of the moving average (section 3.2)
MIN_BITS, MAX_BITS = WEIGHT_BITS["lq"][0], WEIGHT_BITS["lq"][-1]
INT8_MAX = 127
_DELTA = 1e-4
_FIRST_ITERATIONS = 20

Floats = npt.NDArray[np.float64]
Low = Literal[-1, 0]
"""What the bit 0 of an encoding stands for: -1 in weights, 0 in activations."""


@dataclass(frozen=True)
class LQSpec:
    """bits: K. limit: the largest magnitude of an integer level."""

    bits: int
    limit: int
    per_channel: ClassVar[bool] = True

    @property
    def qmax(self) -> int:
        """The largest magnitude of a code."""
        return self.limit

    @property
    def code_bits(self) -> int:
        """The width of a signed code."""
        return self.limit.bit_length() + 1


def lq_limit(pair_limit: int | None) -> int:
    """The largest magnitude of an integer level at which no pair can be unsafe; None: pairs don't matter."""
    return INT8_MAX if pair_limit is None else min(pair_limit // 2, INT8_MAX)


def levels_of(basis: Any, low: Low, xp: Any = np) -> tuple[Any, Any]:
    """Ascending levels `[C, 2**K]`, float64, and the encoding of each, whose bit i is that of v_i; basis: `[C, K]`."""
    wide = xp.asarray(basis, dtype=xp.float64)
    levels = 0 * wide[:, :1]
    for i in range(wide.shape[1]):
        levels = xp.concatenate([levels + low * wide[:, i : i + 1], levels + wide[:, i : i + 1]], 1)
    order = xp.argsort(levels, 1)
    return _take_along(levels, order), order


def nearest(x: Any, levels: Any, xp: Any = np) -> Any:
    """Of each x `[C, N]` the nearest of its row's ascending levels `[C, L]`; of two as near the lower."""
    found = levels[:, :1] + 0 * x
    for i in range(1, levels.shape[1]):
        found = xp.where(x > (levels[:, i - 1 : i] + levels[:, i : i + 1]) / 2, levels[:, i : i + 1], found)
    return found


def lq_exponents(basis: Any, spec: LQSpec, floor: Any, xp: Any = np) -> Any:
    """The least `[C]`, never below `floor`, at which the largest level has at most `limit` steps."""
    levels, _ = levels_of(basis, -1, xp)
    largest = xp.amax(abs(levels), axis=1)
    exponent = xp.where(largest > 0, rounded_log2(largest / spec.limit, "ceil", xp), ZERO_EXPONENT)
    return xp.maximum(exponent, floor)


def lq_codes(rows: Any, exponent: Any, basis: Any, xp: Any = np) -> Any:
    """Codes `[C, N]` of float weights, in their type: the nearest of the integer levels, exact in float32."""
    levels, _ = levels_of(basis, -1, xp)
    steps = xp.round(xp.ldexp(levels, -exponent[:, None]))
    in_steps = xp.ldexp(xp.asarray(rows, dtype=xp.float64), -exponent[:, None])
    return xp.asarray(nearest(in_steps, steps, xp), dtype=rows.dtype)


def lq_table(basis: Any, before: QuantSpec) -> CodeTable:
    """The table behind an unsigned 8-bit quantizer, for a basis `[K]`."""
    levels, _ = levels_of(np.asarray(basis, np.float64)[None], 0)
    after = QuantSpec.unsigned(8, before.exponent)
    steps = np.clip(np.round(levels / after.scale), 0, STORAGE_MAX)
    codes = nearest(np.arange(SIZE, dtype=np.float64)[None], steps)[0]
    return CodeTable(before, after, tuple(int(code) for code in codes))


def solve(x: Any, basis: Any, low: Low, counts: Any = None, xp: Any = np) -> Any:
    """v* `[C, K]`, float64: one iteration of QEM for x `[C, N]`, which occur `counts` times each (None: once)."""
    x, wide = xp.asarray(x, dtype=xp.float64), xp.asarray(basis, dtype=xp.float64)
    weight = xp.ones_like(x) if counts is None else xp.asarray(counts, dtype=xp.float64) + 0 * x
    weight = weight / xp.clip(xp.sum(weight, axis=1), 1, None)[:, None]
    levels, encoding = levels_of(wide, low, xp)
    # Of the x of each level, the part of all and the sum.
    parts, sums = _differences(x, weight, levels, xp)
    bits = [((encoding >> i) & 1) * (1 - low) + low for i in range(wide.shape[1])]
    square = xp.stack([xp.stack([xp.sum(parts * a * b, axis=1) for b in bits], 1) for a in bits], 1)
    product = xp.stack([xp.sum(sums * a, axis=1) for a in bits], 1)
    for i in range(len(bits)):
        square[:, i, i] += _DELTA
    solution: Any = xp.linalg.solve(square, (product + _DELTA * wide)[..., None])[..., 0]
    return solution


def averaged(basis: Any, solution: Any, xp: Any = np) -> Any:
    """The moving average, in the basis' own type."""
    moved = MOMENTUM * xp.asarray(basis, dtype=xp.float64) + (1 - MOMENTUM) * solution
    return xp.asarray(moved, dtype=basis.dtype)


def first_basis(rows: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float32]:
    """The basis `[C, K]` that QEM finds for weights as they are, from evenly spaced levels."""
    largest = 2 * np.abs(rows).mean(axis=1, dtype=np.float64)[:, None]
    basis = largest * 2.0 ** np.arange(bits) / (2**bits - 1)
    for _ in range(_FIRST_ITERATIONS):
        basis = solve(rows, basis, -1)
    found: npt.NDArray[np.float32] = basis.astype(np.float32)
    return found


def first_activation_basis(ymax: float, percentile: float, bits: int) -> npt.NDArray[np.float32]:
    """The basis `[K]` that QEM finds for the positive half of a normal distribution with ymax at this percentile."""
    normal = NormalDist()
    sigma = ymax / max(normal.inv_cdf((1 + min(percentile, 99.999) / 100) / 2), 1.0)
    x = sigma * np.array([[normal.inv_cdf(0.5 + (i + 0.5) / (2 * SIZE)) for i in range(SIZE)]])
    basis = 2 * sigma * 2.0 ** np.arange(bits)[None] / (2**bits - 1)
    for _ in range(_FIRST_ITERATIONS):
        basis = solve(x, basis, 0)
    found: npt.NDArray[np.float32] = basis[0].astype(np.float32)
    return found


def _differences(x: Any, weight: Any, levels: Any, xp: Any) -> tuple[Any, Any]:
    """`[C, L]`: the weight of the x nearest to each level, and their weighted sum."""
    masses, sums = [xp.sum(weight, axis=1)], [xp.sum(weight * x, axis=1)]
    for i in range(1, levels.shape[1]):
        above = weight * (x > (levels[:, i - 1 : i] + levels[:, i : i + 1]) / 2)
        masses.append(xp.sum(above, axis=1))
        sums.append(xp.sum(above * x, axis=1))
    return tuple(xp.stack([*(a - b for a, b in pairwise(v)), v[-1]], 1) for v in (masses, sums))


def _take_along(x: Any, order: Any) -> Any:
    return np.take_along_axis(x, order, 1) if isinstance(x, np.ndarray) else x.gather(1, order)
