import numpy as np
import pytest

import qpipe
from passes.rewrites.spell_norms import SpellNorms
from support.networks import build, integers
from support.rewriting import assert_same, assert_stays

W = {"w": np.ones((4, 3), np.float32)}
ROUNDINGS = 1e-3
"""Sums of whole numbers are exact; of a root and its products with these, up to some thousands, a few last bits."""


def model_of(nodes, sizes="N,5,4"):
    return build(f"(float[{sizes}] x) => (float[] y) {{ {nodes} }}", axes=np.array([-1]), **W)


@pytest.mark.parametrize(
    ("call", "ops"),
    [
        ("ReduceL2(x, axes)", ["Pow", "ReduceSum", "Sqrt"]),
        ("ReduceL1<keepdims = 1>(x, axes)", ["Abs", "ReduceSum"]),
        ("ReduceSumSquare(x, axes)", ["Pow", "ReduceSum"]),
    ],
)
def test_it_is_a_sum(call, ops):
    model = model_of(f"n = {call} d = Mul(x, n) y = MatMul(d, w)")
    assert_same(SpellNorms(), model, [*ops, "Mul", "MatMul"], atol=ROUNDINGS, x=integers(3, 5, 4))


@pytest.mark.parametrize("nodes", ["y = ReduceL2(x, axes)", "s = ReduceLogSum(x, axes) d = Mul(x, s) y = MatMul(d, w)"])
def test_what_stays(nodes):
    assert_stays(SpellNorms(), model_of(nodes))


def test_vectors_of_length_one_have_an_integer_form():
    """As PyTorch's `normalize` writes it, which expands the length to the batch."""
    nodes = (
        "c = MatMul(x, v) n = ReduceL2(c, axes) l = Clip(n, low) s = Shape(c) e = Expand(l, s) d = Div(c, e) "
        "r = Relu(d) y = MatMul(r, w)"
    )
    model = build(
        f"(float[N,5,4] x) => (float[] y) {{ {nodes} }}",
        axes=np.array([-1]), low=np.float32(1e-12), v=np.eye(4, dtype=np.float32), **W,
    )  # fmt: skip
    assert "float island" not in {node.role for node in qpipe.inspect(model).nodes}
