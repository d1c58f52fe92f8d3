"""What learns the step of an activation: LSQ's gradient, written out, and the slope of what it stands for."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpipe.arith.spec import QuantSpec
from qpipe.train.learned_step import gradient_factor, learned_step
from qpipe.train.straight_through import fake_quantize

SUMMED_IN_FLOAT32 = 1e-5
"""Relative, of the sum of magnitudes: 60 products and their sum, each rounded to 2**-24."""
OF_A_DIFFERENCE = 1e-6
"""Relative: what a central difference over 2**-10 octaves, in float64, leaves of the third derivative."""

grids = st.builds(
    lambda bits, exponent, signed: (QuantSpec.signed if signed else QuantSpec.unsigned)(bits, exponent),
    st.integers(2, 8), st.integers(-6, 3), st.booleans(),
)  # fmt: skip


def drawn(seed: int, grid: QuantSpec) -> tuple[np.ndarray, np.ndarray]:
    """x `[4, 3, 5]`, within the range and beyond both ends, and the gradient of what is rounded; float64."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, 3, 5)) * grid.largest * grid.scale
    return np.float32(x).astype(np.float64), rng.standard_normal(x.shape).astype(np.float32).astype(np.float64)


def found_of(x: np.ndarray, gradient: np.ndarray, grid: QuantSpec) -> tuple[float, torch.Tensor, torch.Tensor]:
    """The gradient of the offset and of x, and what the forward gives."""
    offset, values = torch.zeros((), requires_grad=True), torch.from_numpy(x).float().requires_grad_()
    y = learned_step(offset, values.detach(), fake_quantize(values, grid), grid)
    y.backward(torch.from_numpy(gradient).float())
    assert offset.grad is not None
    assert values.grad is not None
    return float(offset.grad), values.grad, y.detach()


@given(grids, st.integers(0, 2**32 - 1))
def test_the_gradient_is_that_of_lsq(grid: QuantSpec, seed: int) -> None:
    """Equation 3, times g; in the offset of an exponent, where the step is LSQ's first of numbers of size 1."""
    x, gradient = drawn(seed, grid)
    s, low, high = grid.scale, grid.qmin, grid.qmax
    of_s = np.where(x < low * s, low, np.where(x > high * s, high, np.rint(x / s) - x / s))
    u = 2 / math.sqrt(high)
    g = 1 / math.sqrt(3 * 5 * high)
    terms = gradient * of_s * s * math.log(2) * g / (u * math.log(2)) ** 2
    found, _, _ = found_of(x, gradient, grid)
    assert found == pytest.approx(terms.sum(), abs=SUMMED_IN_FLOAT32 * np.abs(terms).sum(), rel=0)


@given(grids, st.integers(0, 2**32 - 1))
def test_it_is_the_slope_of_what_it_stands_for(grid: QuantSpec, seed: int) -> None:
    """Straight through, rounding adds a constant to x / s; beyond the range s alone counts."""
    x, gradient = drawn(seed, grid)
    rounded = np.rint(x / grid.scale) - x / grid.scale
    is_within = (x >= grid.qmin * grid.scale) & (x <= grid.qmax * grid.scale)

    def loss(offset: float) -> float:
        s = grid.scale * 2.0**offset
        ends = np.where(x < 0, grid.qmin, grid.qmax) * s
        return float((gradient * np.where(is_within, (x / s + rounded) * s, ends)).sum())

    slope = (loss(2.0**-10) - loss(-(2.0**-10))) / 2.0**-9
    magnitude = np.abs(gradient).sum() * grid.largest * grid.scale
    found, _, _ = found_of(x, gradient, grid)
    allowed = (SUMMED_IN_FLOAT32 + OF_A_DIFFERENCE) * magnitude
    assert found / gradient_factor(15, grid) == pytest.approx(slope, abs=allowed, rel=0)


@given(grids, st.integers(0, 2**32 - 1))
def test_what_is_rounded_and_its_own_gradient_stay(grid: QuantSpec, seed: int) -> None:
    x, gradient = drawn(seed, grid)
    _, of_x, y = found_of(x, gradient, grid)
    values = torch.from_numpy(x).float().requires_grad_()
    alone = fake_quantize(values, grid)
    alone.backward(torch.from_numpy(gradient).float())
    assert torch.equal(y, alone)
    assert torch.equal(of_x, values.grad)


def test_a_factor_between_layers_changes_nothing() -> None:
    """Half of all numbers, on steps of half the size, by weights of twice the size behind them."""
    grid, finer = QuantSpec.unsigned(4, -2), QuantSpec.unsigned(4, -3)
    x, gradient = drawn(3, grid)
    assert found_of(x, gradient, grid)[0] == found_of(x / 2, gradient * 2, finer)[0] != 0


def test_in_bfloat16_what_is_summed_is_float32() -> None:
    """256 equal terms, which bfloat16 would stop adding up."""
    grid = QuantSpec.unsigned(4, 0)
    x = torch.full((1, 4096), 2.25, dtype=torch.bfloat16)
    offset = torch.zeros((), requires_grad=True)
    learned_step(offset, x, fake_quantize(x, grid), grid).sum().backward()
    assert float(offset.grad) == pytest.approx(-0.25 * 4096 * math.log(2) * gradient_factor(4096, grid), rel=1e-6)
