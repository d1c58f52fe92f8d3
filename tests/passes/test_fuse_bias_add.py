import numpy as np
import pytest

from passes.fuse_bias_add import FuseBiasAdd
from passes.remove_dead_code import RemoveDeadCode
from support.networks import build, integers
from support.run import run_as_written

CONV = "(float[N,3,6,6] x) => (float[N,4,6,6] y) {{ z = Conv <pads = [1, 1, 1, 1]> (x, w{}) y = Add({}) }}"
MATMUL = "(float[{},5] x) => (float[A,B] y) {{ z = MatMul(x, w) y = Add({}) }}"


def fuse_and_compare(model, ops, **inputs):
    expected = run_as_written(model, **inputs)[0]
    assert FuseBiasAdd()(model).modified
    assert [node.op_type for node in model.graph] == ops
    assert model.graph.outputs[0].name == "y"
    np.testing.assert_array_equal(run_as_written(model, **inputs)[0], expected)
    assert not FuseBiasAdd()(model).modified


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (1, 1, 1, 1), (1, 1, 1), (1,), ()])
@pytest.mark.parametrize("order", ["z, c", "c, z"])
def test_conv(shape, order):
    model = build(CONV.format("", order), w=integers(4, 3, 3, 3, seed=1), c=integers(*shape, seed=2))
    fuse_and_compare(model, ["Conv"], x=integers(2, 3, 6, 6))
    assert model.graph.node(0).inputs[2].const_value.shape == (4,)


def test_conv_that_has_a_bias():
    model = build(
        CONV.format(", b", "z, c"), w=integers(4, 3, 3, 3), b=integers(4, seed=1), c=integers(4, 1, 1, seed=2)
    )
    fuse_and_compare(model, ["Conv"], x=integers(2, 3, 6, 6))
    RemoveDeadCode()(model)
    assert len(model.graph.initializers) == 2


@pytest.mark.parametrize("shape", [(6,), (4, 6, 1), (4, 6, 6), (2, 4, 1, 1), (1, 1, 4, 1, 1)])
def test_conv_with_an_add_along_other_dimensions_stays(shape):
    rank5 = len(shape) == 5
    text = CONV.format("", "z, c").replace("float[N,4,6,6] y", "float[A,B,C,D,E] y" if rank5 else "float[A,B,C,D] y")
    model = build(text, w=integers(4, 3, 3, 3), c=integers(*shape))
    assert not FuseBiasAdd()(model).modified


@pytest.mark.parametrize("shape", [(7,), (1, 7), (1, 1), (1,), ()])
@pytest.mark.parametrize("order", ["z, c", "c, z"])
def test_matmul(shape, order):
    model = build(MATMUL.format("N", order), w=integers(5, 7), c=integers(*shape, seed=1))
    fuse_and_compare(model, ["Gemm"], x=integers(3, 5))


@pytest.mark.parametrize("shape", [(3, 7), (3, 1)])
def test_matmul_with_an_offset_per_row_stays(shape):
    assert not FuseBiasAdd()(build(MATMUL.format("3", "z, c"), w=integers(5, 7), c=integers(*shape))).modified


def test_matmul_of_rank_3_stays():
    model = build(
        "(float[N,2,5] x) => (float[N,2,7] y) { z = MatMul(x, w) y = Add(z, c) }", w=integers(5, 7), c=integers(7)
    )
    assert not FuseBiasAdd()(model).modified


def test_product_with_two_readers_stays():
    model = build(
        "(float[N,5] x) => (float[N,7] y) { z = MatMul(x, w) a = Add(z, c) y = Mul(a, z) }",
        w=integers(5, 7),
        c=integers(7),
    )
    assert not FuseBiasAdd()(model).modified


def test_product_added_to_itself_stays():
    model = build("(float[N,5] x) => (float[N,7] y) { z = MatMul(x, w) y = Add(z, z) }", w=integers(5, 7))
    assert not FuseBiasAdd()(model).modified


def test_product_that_is_an_output_stays():
    model = build(
        "(float[N,5] x) => (float[N,7] y, float[N,7] z) { z = MatMul(x, w) y = Add(z, c) }",
        w=integers(5, 7),
        c=integers(7),
    )
    assert not FuseBiasAdd()(model).modified


def test_computed_weight_stays():
    """As behind DequantizeLinear: a float bias would break the integer layer."""
    model = build(
        "(float[N,5] x) => (float[N,7] y) { w = DequantizeLinear(q, s) z = MatMul(x, w) y = Add(z, c) }",
        q=np.ones((5, 7), np.int8),
        s=np.float32(0.5),
        c=integers(7),
    )
    assert not FuseBiasAdd()(model).modified


def test_bias_read_elsewhere_keeps_its_value():
    model = build(
        "(float[N,5] x) => (float[N,7] y) { z = MatMul(x, w) a = Add(z, c) y = Mul(a, c) }",
        w=integers(5, 7),
        c=integers(7, seed=1),
    )
    x = integers(3, 5)
    expected = run_as_written(model, x=x)[0]
    assert FuseBiasAdd()(model).modified
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected)
