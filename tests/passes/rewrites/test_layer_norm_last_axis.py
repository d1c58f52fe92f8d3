"""A LayerNormalization of several axes is one of the last."""

import numpy as np
import pytest

import qpipe
from passes.rewrites.layer_norm_last_axis import LayerNormLastAxis
from support.networks import build
from support.rewriting import assert_same, assert_stays, network

DRAW = np.random.default_rng(0)
CONSTANTS = {
    "g": DRAW.normal(size=(4, 5)).astype(np.float32), "b": DRAW.normal(size=(4, 5)).astype(np.float32),
    "each": DRAW.normal(size=(4, 1)).astype(np.float32), "row": DRAW.normal(size=5).astype(np.float32),
    "w": np.ones((2, 3, 1, 1), np.float32),
}  # fmt: skip
ROUNDINGS = 1e-5
"""Normalized numbers up to 10, of sums of 20: both sum in another order, some last bits of 2**-23."""


@pytest.mark.parametrize(
    "node",
    [
        "LayerNormalization<axis=-2>(x, g, b)",
        "LayerNormalization<axis=2, epsilon=0.1>(x, each)",
        "LayerNormalization<axis=2>(x, row, each)",
    ],
)
@pytest.mark.parametrize("batch", ["N", "2"])
def test_it_is_one_of_the_last_axis(node, batch):
    x = DRAW.normal(1, 2, (2, 3, 4, 5)).astype(np.float32)
    model = network(f"{batch},3,4,5", f"n = {node} y = Conv(n, w)", **CONSTANTS)
    assert_same(LayerNormLastAxis(), model, ["Reshape", "LayerNormalization", "Reshape", "Conv"], atol=ROUNDINGS, x=x)


@pytest.mark.parametrize(
    ("shape", "nodes"),
    [
        ("N,3,4,5", "n = LayerNormalization(x, row) y = Conv(n, w)"),
        ("N,3,H,5", "n = LayerNormalization<axis=2>(x, row) y = Conv(n, w)"),
        ("N,3,4,5", "c = Relu(g) n = LayerNormalization<axis=2>(x, c) y = Conv(n, w)"),
        ("N,3,4,5", "y = LayerNormalization<axis=2>(x, g)"),
        ("N,3,2000,5", "n = LayerNormalization<axis=2>(x, row) y = Conv(n, w)"),
    ],
)
def test_what_stays(shape, nodes):
    assert_stays(LayerNormLastAxis(), network(shape, nodes, **CONSTANTS))


def test_nothing_of_it_stays_float():
    """As convolutions of sound are normalized: over channels and time."""
    nodes = "c = Conv(x, first) n = LayerNormalization<axis=1>(c, each, each) r = Relu(n) y = Conv(r, last)"
    weights = {"first": np.ones((4, 2, 1), np.float32), "last": np.ones((2, 4, 1), np.float32)}
    model = build(f"(float[N,2,5] x) => (float[] y) {{ {nodes} }}", each=CONSTANTS["each"], **weights)
    assert "float island" not in {node.role for node in qpipe.inspect(model).nodes}
