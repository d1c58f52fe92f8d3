"""A PRelu of a slope for each channel is the sum of its two sides, in floats and in integers."""

import numpy as np
import pytest

from passes.normalize import normalize
from passes.rewrites.prelu_to_lines import PReluToLines
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.ir.quantized.view import read_view
from qpipe.runtime.gate import run_gate
from support.networks import Weights, build, float_model, ops
from support.oracle import assert_integers
from support.quantize import finalized_on_grids, to_qoperator
from support.run import run

W = {"w": np.ones((3, 3, 1, 1), np.float32)}


def model_of(nodes, slopes):
    return build(f"(float[N,3,4,4] x) => (float[] y) {{ {nodes} }}", s=slopes.astype(np.float32), **W)


@pytest.mark.parametrize("shape", [(3, 1, 1), (4,), (3, 4, 4)])
def test_it_is_both_sides_of_zero(shape):
    model = model_of("p = PRelu(x, s) y = Conv(p, w)", np.random.default_rng(0).uniform(-0.5, 1, shape))
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 4)).astype(np.float32)
    (before,) = run(model, x)
    assert PReluToLines()(model).modified
    assert ops(model) == ["Relu", "Clip", "Mul", "Add", "Conv"]
    np.testing.assert_array_equal(run(model, x)[0], before)
    assert not PReluToLines()(model).modified


def test_before_a_transposed_convolution():
    model = model_of("p = PRelu(x, s) y = ConvTranspose(p, w)", np.array([0.5, 0.25, 2.0]).reshape(3, 1, 1))
    assert PReluToLines()(model).modified
    normalize(model)
    assert not plan_quantization(model.graph).islands


def test_equal_slopes_are_one():
    model = model_of("p = PRelu(x, s) y = Conv(p, w)", np.full((3, 1, 1), 0.25))
    assert PReluToLines()(model).modified
    assert ops(model) == ["PRelu", "Conv"]
    assert not PReluToLines()(model).modified


@pytest.mark.parametrize(
    ("nodes", "slopes"),
    [("p = PRelu(x, s) y = Conv(p, w)", np.array(0.25)), ("p = Conv(x, w) y = PRelu(p, s)", np.ones((3, 1, 1)))],
    ids=["of one slope", "behind the last weights"],
)
def test_others_stay(nodes, slopes):
    model = model_of(nodes, slopes)
    assert not PReluToLines()(model).modified


def test_all_exports_give_the_same_integers():
    w = Weights()
    for name in ("w1", "w2"):
        w.normal(name, 3, 3, 1, 1)
    slopes = np.array([0.1, -0.2, 0.7], np.float32).reshape(3, 1, 1)
    nodes = ["c = Conv(x, w1)", "p = PRelu(c, s)", "y = Conv(p, w2)"]
    spec = finalized_on_grids(float_model("net", (3, 4, 4), nodes, s=slopes, **w.constants), lambda: 1)
    view = read_view(spec)
    assert not view.islands
    assert certify(view).problems == []
    assert_integers(spec, np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32))
    run_gate(spec, to_qoperator(spec))
