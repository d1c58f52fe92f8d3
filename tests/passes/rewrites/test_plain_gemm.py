import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.rewrites.plain_gemm import PlainGemm
from qpipe.ops import op_of
from support.networks import build, integers
from support.rewriting import assert_same, assert_stays, network

FACTORS = st.sampled_from([1.0, 0.5, -2.0, 3.0])
BIASES = st.sampled_from([None, (), (4,), (1, 4), (3, 4), (3, 1)])


@given(FACTORS, FACTORS, st.booleans(), st.booleans(), BIASES)
def test_any_gemm(alpha, beta, turned, transposed, bias):
    attributes = f"alpha = {alpha}, beta = {beta}, transA = {int(turned)}, transB = {int(transposed)}"
    constants = {"w": integers(4, 5) if transposed else integers(5, 4)}
    if bias is not None:
        constants["b"] = integers(*bias, seed=1)
    shape = (5, 3) if turned else (3, 5)
    model = network(
        ",".join(map(str, shape)), f"y = Gemm<{attributes}>(x, w{', b' if bias is not None else ''})", **constants
    )
    rows = ["Add"] if bias in {(3, 4), (3, 1)} else []
    assert_same(PlainGemm(), model, [*["Transpose"] * turned, "Gemm", *rows], x=integers(*shape))
    (gemm,) = (node for node in model.graph if node.op_type == "Gemm")
    assert op_of(gemm).refusal(gemm) is None


@given(FACTORS, FACTORS, st.booleans(), st.booleans(), st.sampled_from([None, (), (3, 3), (3, 1)]))
def test_two_activations(alpha, beta, turned, transposed, bias):
    attributes = f"alpha = {alpha}, beta = {beta}, transA = {int(turned)}, transB = {int(transposed)}"
    constants = {} if bias is None else {"b": integers(*bias, seed=1)}
    nodes = f"a = Neg(x) y = Gemm<{attributes}>({', '.join(['x', 'a', *constants])})"
    found = ["Transpose"] * (turned + transposed) + ["MatMul"] + ["Mul"] * (alpha != 1) + ["Add"] * (bias is not None)
    assert_same(PlainGemm(), network("3,3", nodes, **constants), ["Neg", *found], x=integers(3, 3))


@given(st.lists(st.integers(1, 3), max_size=2), st.integers(0, 2))
def test_constants_come_second(batch, ones):
    shape = [*batch, 5, 4]
    weight = integers(*[1] * min(ones, len(batch)), 3, 5)
    model = network(",".join(map(str, shape)), "y = MatMul(w, x)", w=weight)
    assert_same(PlainGemm(), model, ["Transpose", "MatMul", "Transpose"], x=integers(*shape))


@pytest.mark.parametrize("shape", ["2,5,4", "1,5,4", "5,4", "3,1,5,4"])
def test_several_matrices_come_second_too(shape):
    model = network(shape, "y = MatMul(w, x)", w=integers(2, 3, 5))
    expected = ["Transpose", "MatMul", "Transpose"]
    assert_same(PlainGemm(), model, expected, x=integers(*map(int, shape.split(","))))


def test_a_matrix_of_more_axes():
    model = network("2,3,5", "y = MatMul(x, w)", w=integers(1, 5, 4))
    assert_same(PlainGemm(), model, ["MatMul"], x=integers(2, 3, 5))


def test_a_weight_that_others_share_is_scaled_for_one():
    text = "(float[N,5] x) => (float[] y, float[] z) { y = Gemm<alpha = 2.0>(x, w) z = MatMul(x, w) }"
    assert_same(PlainGemm(), build(text, w=integers(5, 4)), ["Gemm", "MatMul"], x=integers(2, 5))


@pytest.mark.parametrize(
    ("shape", "nodes"),
    [
        ("3,5", "y = Gemm(x, w)"),
        ("3,5", "q = DequantizeLinear(k, s) y = Gemm<alpha = 2.0>(x, q)"),
        ("3,5", "y = Gemm<alpha = 1e30>(x, huge)"),
        ("3,5", "y = MatMul(x, stack)"),
        ("3,5", "y = MatMul(x, w3)"),
        ("5", "y = MatMul(square, x)"),
    ],
    ids=["plain", "quantized weights", "beyond float32", "several matrices", "more axes", "a row"],
)  # fmt: skip
def test_what_stays(shape, nodes):
    constants = {"w": integers(5, 4), "huge": np.full((5, 4), 1e30, np.float32), "stack": integers(2, 5, 4)}
    more = {"w3": integers(1, 5, 4), "square": integers(5, 5)}
    quantized = {"k": np.ones((5, 4), np.int8), "s": np.float32(0.5)}
    assert_stays(PlainGemm(), network(shape, nodes, **constants, **more, **quantized))
