"""A matrix for each head is a group of a Conv."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qpipe
from passes.rewrites.matrices_to_grouped_conv import MatricesToGroupedConv
from passes.rewrites.plain_gemm import PlainGemm
from support.networks import build, checked, integers, load, ops, parse
from support.rewriting import assert_same, assert_stays, network
from support.run import run_as_written

WEIGHTS = {"w": integers(3, 4, 5), "ones": integers(1, 1, 4, 5), "each": integers(2, 3, 4, 5)}
HEADS = ["Transpose", "Reshape", "Conv", "Reshape", "Transpose"]


@pytest.mark.parametrize("batch", ["N", "2"])
def test_it_is_one_layer(batch):
    model = network(f"{batch},3,6,4", "y = MatMul(x, w)", **WEIGHTS)
    assert_same(MatricesToGroupedConv(), model, HEADS, x=integers(2, 3, 6, 4))


@settings(max_examples=60)
@given(st.data(), st.integers(0, 3), st.booleans())
def test_of_any_axes(data, leading, is_left):
    """Groups, columns and rows in any order; x or w may lack the first of them; the batch stands anywhere."""
    draw = data.draw
    kinds = [draw(st.sampled_from("gcr")) for _ in range(leading)]
    many = [draw(st.integers(2, 3)) for _ in kinds]
    left = [1 if kind == "c" else size for kind, size in zip(kinds, many, strict=True)]
    right = [1 if kind == "r" else size for kind, size in zip(kinds, many, strict=True)]
    while left and left[0] == 1 and draw(st.booleans()):
        left.pop(0)
    while right and right[0] == 1 and draw(st.booleans()):
        right.pop(0)
    T, K, C = (draw(st.integers(1, 4)) for _ in range(3))
    shape, weight = [*left, T, K], [*right, K, C]
    rows = [len(left), *(i for i in range(len(left)) if kinds[leading - len(left) + i] == "r")]
    named = [str(size) for size in shape]
    if draw(st.booleans()):
        named[draw(st.sampled_from(rows))] = "N"
    x, w = integers(*shape, seed=1), integers(*weight, seed=2)
    if is_left:
        named[-2:] = named[:-3:-1]
        x, w = x.swapaxes(-1, -2).copy(), w.swapaxes(-1, -2).copy()
    text = f"(float[{','.join(named)}] x) => (float[] y) {{ y = MatMul({'w, x' if is_left else 'x, w'}) }}"
    model = build(text, w=w)
    (expected,) = run_as_written(model, x=x)
    PlainGemm()(model)
    MatricesToGroupedConv()(model)
    layers = [node for node in model.graph if node.op_type in {"Conv", "MatMul"}]
    assert len(layers) == 1
    assert layers[0].op_type == "Conv" or layers[0].inputs[1].const_value.shape.rank() == 2
    checked(model)
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected)
    assert not MatricesToGroupedConv()(model).modified


@pytest.mark.parametrize(("shape", "weight"), [("N,3,T,4", "w"), ("N,3,6,K", "w"), ("N,1,6,4", "ones"), ("4", "w")])
def test_what_stays(shape, weight):
    assert_stays(MatricesToGroupedConv(), network(shape, f"y = MatMul(x, {weight})", **WEIGHTS))


def test_experts_are_columns_of_one_matrix():
    model = network("N,1,6,4", "y = MatMul(x, w)", **WEIGHTS)
    assert_same(MatricesToGroupedConv(), model, ["Reshape", "MatMul", "Reshape", "Transpose"], x=integers(2, 1, 6, 4))


def test_a_grouped_linear_keeps_its_batch():
    """As torch.bmm computes it, with the groups first."""
    text = "a = Transpose<perm=[1, 0, 2]>(x) b = MatMul(a, w) y = Transpose<perm=[1, 0, 2]>(b)"
    model = load(parse(f"(float[N,3,4] x) => (float[N,3,5] y) {{ {text} }}", w=WEIGHTS["w"]))
    assert ops(model) == ["Reshape", "Conv", "Reshape"]
    x = integers(2, 3, 4)
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], np.einsum("ngk,gkc->ngc", x, WEIGHTS["w"]))


def test_nothing_of_it_stays_float():
    nodes = "a = Conv(x, first) r = Relu(a) b = MatMul(r, w) s = Relu(b) y = Conv(s, last)"
    ones = {"first": np.ones((3, 2, 1, 1), np.float32), "last": np.ones((2, 3, 1, 1), np.float32)}
    model = build(f"(float[N,2,6,4] x) => (float[] y) {{ {nodes} }}", w=WEIGHTS["w"], **ones)
    assert "float island" not in {node.role for node in qpipe.inspect(model).nodes}
