"""A matrix for each head is a group of a Conv."""

import numpy as np
import pytest

import qpipe
from passes.rewrites.matrices_to_grouped_conv import MatricesToGroupedConv
from support.networks import build, integers
from support.rewriting import assert_same, assert_stays, network

WEIGHTS = {
    "w": integers(3, 4, 5),
    "w4": integers(1, 3, 4, 5),
    "flat": integers(1, 1, 4, 5),
    "each": integers(2, 3, 4, 5),
}
EXPECTED = ["Transpose", "Reshape", "Conv", "Reshape", "Transpose"]


@pytest.mark.parametrize("weight", ["w", "w4"])
@pytest.mark.parametrize("batch", ["N", "2"])
def test_it_is_one_layer(weight, batch):
    model = network(f"{batch},3,6,4", f"y = MatMul(x, {weight})", **WEIGHTS)
    assert_same(MatricesToGroupedConv(), model, EXPECTED, x=integers(2, 3, 6, 4))


@pytest.mark.parametrize(
    ("shape", "weight"), [("N,1,6,4", "w"), ("N,3,T,4", "w"), ("N,3,6,4", "flat"), ("2,3,6,4", "each"), ("3,6,4", "w")]
)
def test_what_stays(shape, weight):
    assert_stays(MatricesToGroupedConv(), network(shape, f"y = MatMul(x, {weight})", **WEIGHTS))


def test_nothing_of_it_stays_float():
    nodes = "a = Conv(x, first) r = Relu(a) b = MatMul(r, w) s = Relu(b) y = Conv(s, last)"
    ones = {"first": np.ones((3, 2, 1, 1), np.float32), "last": np.ones((2, 3, 1, 1), np.float32)}
    model = build(f"(float[N,2,6,4] x) => (float[] y) {{ {nodes} }}", w=WEIGHTS["w"], **ones)
    assert "float island" not in {node.role for node in qpipe.inspect(model).nodes}
