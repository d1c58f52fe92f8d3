import numpy as np
import pytest

from passes.rewrites.flatten_linear import FlattenLinear
from support.networks import build, integers
from support.run import run_as_written

TEXT = "(float[{}] x) => (float[A,B,C] y) {{ z = MatMul(x, w) {} }}"


def check(model, ops, x):
    expected = run_as_written(model, x=x)[0]
    assert FlattenLinear()(model).modified
    assert [node.op_type for node in model.graph] == ops
    assert model.graph.outputs[0].name == "y"
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected)
    assert not FlattenLinear()(model).modified


@pytest.mark.parametrize("order", ["z, c", "c, z"])
def test_a_bias_and_an_activation_stay_with_the_product(order):
    constants = {"w": integers(5, 7), "c": integers(7, seed=1)}
    check(
        build(TEXT.format("N,2,5", f"y = Add({order})"), **constants), ["Reshape", "Gemm", "Reshape"], integers(3, 2, 5)
    )
    model = build(TEXT.format("N,2,5", f"a = Add({order}) y = Relu(a)"), **constants)
    check(model, ["Reshape", "Gemm", "Relu", "Reshape"], integers(3, 2, 5))


def test_four_dimensions():
    text = TEXT.format("N,2,3,5", "y = Add(z, c)").replace("A,B,C", "A,B,C,D")
    check(build(text, w=integers(5, 7), c=integers(7)), ["Reshape", "Gemm", "Reshape"], integers(4, 2, 3, 5))


@pytest.mark.parametrize(
    ("shape", "rest", "bias"),
    [
        ("N,T,5", "y = Add(z, c)", (7,)),
        ("N,2,5", "y = Add(z, c)", (2, 7)),
        ("N,2,5", "y = Add(z, c)", (2, 1)),
        ("N,2,5", "a = Add(z, c) y = Mul(a, z)", (7,)),
    ],
    ids=["unknown length", "a bias for each place", "one for each place alone", "read twice"],
)
def test_what_stays(shape, rest, bias):
    assert not FlattenLinear()(build(TEXT.format(shape, rest), w=integers(5, 7), c=integers(*bias))).modified
