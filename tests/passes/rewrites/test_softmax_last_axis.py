from __future__ import annotations

import numpy as np
import pytest

from passes.rewrites.softmax_last_axis import SoftmaxLastAxis
from support.networks import ops
from support.rewriting import assert_same, assert_stays, network

W = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((2, 3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_any_axis_becomes_the_last(axis: int) -> None:
    model = network("N,3,4,5", f"s = Softmax<axis={axis}>(x) y = MatMul(s, w)", w=W)
    # Sums of a row may be added in another order.
    assert_same(SoftmaxLastAxis(), model, ["Transpose", "Softmax", "Transpose", "MatMul"], atol=1e-6, x=X)
    assert [str(size) for size in model.graph.node(1).outputs[0].shape or ()][axis] == "5"


def test_one_that_leads_to_an_output_and_to_weights() -> None:
    text = "(float[N,3,4,5] x) => (float[] y, float[] s) { s = Softmax<axis=1>(x) y = MatMul(s, w) }"
    from support.networks import build

    model = build(text, w=W)
    assert_same(SoftmaxLastAxis(), model, atol=1e-6, x=X)
    assert ops(model).count("Transpose") == 2


@pytest.mark.parametrize(
    "nodes",
    [
        "s = Softmax<axis=-1>(x) y = MatMul(s, w)",
        "s = Softmax<axis=3>(x) y = MatMul(s, w)",
        "h = MatMul(x, w) y = Softmax<axis=1>(h)",
        "h = MatMul(x, w) s = Softmax<axis=1>(h) y = Mul(s, h)",
        "s = LogSoftmax<axis=1>(x) y = MatMul(s, w)",
    ],
)
def test_what_stays(nodes: str) -> None:
    assert_stays(SoftmaxLastAxis(), network("N,3,4,5", nodes, w=W))
