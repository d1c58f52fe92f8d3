"""A Div becomes a Mul where weights follow."""

import numpy as np
import pytest

from passes.rewrites.multiply_by_reciprocal import MultiplyByReciprocal
from support.networks import build, ops
from support.run import run

ONE_MORE_ROUNDING = 2e-6
"""Of float32: the reciprocal's, and what sums of three of the products make of it."""
W = {"w": np.ones((3, 3, 1, 1), np.float32)}


def quotient(nodes: str, divisor: np.ndarray):
    return build(f"(float[N,3,4,4] x) => (float[] y) {{ {nodes} }}", k=divisor.astype(np.float32), **W)


@pytest.mark.parametrize("shape", [(), (3, 1, 1), (4, 4), (1, 3, 4, 4)])
def test_powers_of_two_are_exact(shape):
    divisor = 2.0 ** np.random.default_rng(0).integers(-3, 4, shape)
    model = quotient("d = Div(x, k) y = Conv(d, w)", np.asarray(divisor))
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 4)).astype(np.float32)
    (before,) = run(model, x)
    assert MultiplyByReciprocal()(model).modified
    assert ops(model) == ["Mul", "Conv"]
    np.testing.assert_array_equal(run(model, x)[0], before)
    assert not MultiplyByReciprocal()(model).modified


def test_a_constant_by_what_is_computed():
    model = quotient("e = Exp(x) d = Div(k, e) y = Conv(d, w)", np.array(3.0))
    x = np.random.default_rng(1).uniform(0.5, 2, (2, 3, 4, 4)).astype(np.float32)
    (before,) = run(model, x)
    assert MultiplyByReciprocal()(model).modified
    assert ops(model).count("Reciprocal") == 1
    assert "Div" not in ops(model)
    np.testing.assert_allclose(run(model, x)[0], before, rtol=ONE_MORE_ROUNDING)
    assert not MultiplyByReciprocal()(model).modified


@pytest.mark.parametrize(
    ("nodes", "divisor"),
    [
        ("d = Div(x, k) y = Conv(d, w)", np.array(0.0)),
        ("d = Div(x, k) y = Conv(d, w)", np.array(1e-44)),
        ("d = Conv(x, w) y = Div(d, k)", np.array(2.0)),
        ("e = Conv(x, w) y = Div(e, x)", np.array(2.0)),
        ("m = ReduceMean(x) d = Div(k, m) y = Conv(d, w)", np.ones((1, 3, 4, 4))),
        ("e = Exp(x) d = Div(x, e) y = Conv(d, w)", np.array(2.0)),
    ],
    ids=[
        "by zero",
        "whose reciprocal is beyond float32",
        "behind the last weights",
        "behind them, by what is computed",
        "a constant by one number of all images",
        "two that are computed: a quotient of integers",
    ],
)
def test_others_stay(nodes, divisor):
    model = quotient(nodes, divisor)
    before = ops(model)
    assert not MultiplyByReciprocal()(model).modified
    assert ops(model) == before
