"""A product of a value and itself becomes its square where weights follow."""

import numpy as np
import pytest

from passes.rewrites.square_product import SquareProduct
from support.networks import build, ops
from support.run import run

W = {"w": np.ones((3, 3, 1, 1), np.float32)}


def model_of(nodes: str):
    return build(f"(float[N,3,4,4] x) => (float[] y) {{ {nodes} }}", **W)


def test_it_is_the_square():
    model = model_of("r = Relu(x) s = Mul(r, r) y = Conv(s, w)")
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 4)).astype(np.float32)
    (before,) = run(model, x)
    assert SquareProduct()(model).modified
    assert ops(model) == ["Relu", "Pow", "Conv"]
    np.testing.assert_array_equal(run(model, x)[0], before)
    assert not SquareProduct()(model).modified


@pytest.mark.parametrize("nodes", ["r = Relu(x) s = Mul(r, x) y = Conv(s, w)", "r = Conv(x, w) y = Mul(r, r)"])
def test_others_stay(nodes):
    model = model_of(nodes)
    assert not SquareProduct()(model).modified
