"""Scores keep the levels of their grid beside a mask, and a Softmax does not notice."""

import numpy as np
import onnx_ir as ir
import pytest

import qpipe
from passes.quantizing.bound_scores import BoundScores
from support.networks import build, ops, parse
from support.run import run

NOTICED = 1e-6
"""Of a probability: each of 8 places that are cut had e^-16 = 1e-7 at most."""
W = {"w": np.eye(8, dtype=np.float32)}
MASK = np.triu(np.full((8, 8), -10000, np.float32), 1)
RNG = np.random.default_rng(0)


def model_of(nodes, **constants):
    used = {name: array for name, array in constants.items() if f"{name})" in nodes or f"{name}," in nodes}
    return build(
        f"(float[N,8,8] x) => (float[] y) {{ {nodes} s = Softmax<axis = -1>(a) y = MatMul(s, w) }}", **used, **W
    )


def samples(scale=3.0):
    return (scale * RNG.standard_normal((16, 8, 8))).astype(np.float32)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("a = Add(x, m)", ["Add", "Clip", "Softmax", "MatMul"]),
        ("b = Add(x, m) a = Reshape(b, sizes)", ["Add", "Clip", "Reshape", "Softmax", "MatMul"]),
        ("a = Where(c, x, low)", ["Where", "Softmax", "MatMul"]),
    ],
    ids=["a sum", "in another shape", "a choice"],
)
def test_the_range_is_that_of_the_scores(nodes, expected):
    model = model_of(nodes, m=MASK, c=MASK == 0, low=np.float32(-10000), sizes=np.array([-1, 8, 8]))
    x = samples()
    (before,) = run(model, x)
    assert BoundScores(inputs=x)(model).modified
    assert ops(model) == expected
    np.testing.assert_allclose(run(model, x)[0], before, rtol=0, atol=NOTICED)
    constants = [v.const_value.numpy() for v in model.graph.initializers.values() if v.uses() and v.name != "m"]
    assert -40 < min(array.min() for array in constants if array.dtype == np.float32) < -10
    assert not BoundScores(inputs=x)(model).modified


def test_a_row_that_is_masked_as_a_whole_counts_for_nothing():
    mask = MASK.copy()
    mask[0] = -10000
    model, x = model_of("a = Add(x, m)", m=mask), samples()
    (before,) = run(model, x)
    assert BoundScores(inputs=x)(model).modified
    # What is equally far below is equal: all of it is cut alike, and float32 loses what tells it apart.
    np.testing.assert_allclose(run(model, x)[0][:, 1:], before[:, 1:], rtol=0, atol=NOTICED)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ("a = Add(x, m)", {"m": MASK * 0.001}),
        ("a = Relu(x)", {}),
        ("b = Add(x, m) a = Relu(b)", {"m": MASK}),
        ("a = Add(x, m)", {"m": MASK * 0 - 10000}),
    ],
    ids=["little would be gained", "no mask", "another function between", "all is masked"],
)
def test_what_stays(nodes, constants):
    model = model_of(nodes, **constants)
    before = ops(model)
    assert not BoundScores(inputs=samples())(model).modified
    assert ops(model) == before


def test_behind_the_last_weights_nothing_is_cut():
    model = build("(float[N,8,8] x) => (float[] y) { b = MatMul(x, w) a = Add(b, m) y = Softmax(a) }", m=MASK, **W)
    assert not BoundScores(inputs=samples())(model).modified


DECIBELS = 20.0
"""Of attention at 8 bits: 24 to 26 in four draws. On a grid that reaches down to -10000 it had 1.8 to 2.3."""


@pytest.mark.parametrize("lowest", [-10000.0, -3.4e38, -np.inf])
def test_attention_keeps_its_levels_whatever_the_number_of_its_mask(lowest):
    rng = np.random.default_rng(1)
    w = {name: (rng.standard_normal((8, 8)) / 2).astype(np.float32) for name in ("q", "k", "v", "o")}
    mask = np.where(MASK < 0, np.float32(lowest), np.float32(0))
    proto = parse(
        "(float[N,8,8] x) => (float[] y) { a = MatMul(x, q) b = MatMul(x, k) t = Transpose<perm = [0, 2, 1]>(b) "
        "c = MatMul(a, t) d = Add(c, m) s = Softmax<axis = -1>(d) e = MatMul(x, v) f = MatMul(s, e) y = MatMul(f, o) }",
        m=mask, **w,
    )  # fmt: skip
    x = rng.standard_normal((64, 8, 8)).astype(np.float32)
    exact = run(ir.from_proto(proto), x)[0]
    error = run(qpipe.calibrate(proto, x, preprocess={}), x)[0] - exact
    assert 10 * np.log10(np.square(exact).sum() / np.square(error).sum()) > DECIBELS
