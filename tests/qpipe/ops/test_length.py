"""ReduceL2 of few numbers: its text, all exports, every sum of squares, training, and what is refused."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qpipe
from qpipe.ops import op_of
from qpipe.runtime.session import open_session, run_batches
from support.networks import Weights, parse
from support.one_node import by_the_oracle, drawn, node_of
from support.random_grids import ACTIVATIONS, check

RNG = np.random.default_rng(0)


@settings(max_examples=40)
@given(data=st.data(), keepdims=st.booleans())
def test_the_function_is_numpy_s(data: st.DataObject, keepdims: bool) -> None:
    shape = data.draw(st.sampled_from([(2, 2, 3), (3, 2, 2), (1, 4), (2, 3, 1, 5)]))
    axes = data.draw(st.sampled_from([(1,), (1, 2)] if shape == (3, 2, 2) else [(1,)]))
    x = drawn(data.draw, *shape)
    node = node_of(f"ReduceL2<keepdims = {keepdims:d}>(x, axes)", shape, axes=np.array(axes))
    expected = np.sqrt(np.square(x.astype(np.float64)).sum(axis=axes, keepdims=keepdims))
    assert op_of(node).refusal(node) is None
    y = op_of(node).torch(node)(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-15)
    np.testing.assert_array_equal(by_the_oracle(node, x), np.clip(np.round(expected), -128, 127))


@settings(max_examples=8)
@given(data=st.data())
def test_all_exports_give_the_same_integers(data: st.DataObject) -> None:
    draw = data.draw
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w1", 6, 3, 1, 1)
    w.normal("w2", 3, 3, 1, 1)
    nodes = ["c = Conv(x, w1)", f"r = {draw(ACTIVATIONS).format('c')}", "p = Reshape(r, pairs)",
             "m = ReduceL2<keepdims = 0>(p, axes)", "y = Conv(m, w2)"]  # fmt: skip
    w.constants |= {"axes": np.array([1]), "pairs": np.array([0, 2, 3, 5, 7])}
    check(draw, nodes, (3, 5, 7), w, gate=True, optimize=draw(st.booleans()))


@pytest.mark.parametrize("apart", [-6, -2, -1, 0, 1, 3])
def test_float32_is_no_nearer_to_a_tie_than_the_root(apart: int) -> None:
    """Of every pair of codes: what a runtime rounds is what the exact root rounds to."""
    codes = np.arange(256)
    total = np.square(codes[:, None]) + np.square(codes)
    step = np.float32(2.0**apart)
    found = np.rint(np.sqrt(total.astype(np.float32)) / step)
    np.testing.assert_array_equal(np.minimum(found, 255), np.minimum(np.rint(np.sqrt(total) / 2.0**apart), 255))


def spectrum() -> object:
    rng = np.random.default_rng(1)
    return parse(
        "(float[N,1,64] x) => (float[N,4,15] y) { c = Conv<strides = [4]>(x, w1) re = Slice(c, zero, eight, one) "
        "im = Slice(c, eight, far, one) r2 = Pow(re, two) i2 = Pow(im, two) s = Add(r2, i2) m = Sqrt(s) "
        "y = Conv(m, w2) }",
        w1=rng.standard_normal((16, 1, 8)).astype(np.float32), w2=rng.standard_normal((4, 8, 1)).astype(np.float32),
        two=np.float32(2), zero=np.array([0]), eight=np.array([8]), far=np.array([2**31]), one=np.array([1]),
    )  # fmt: skip


def test_a_magnitude_keeps_its_levels() -> None:
    """Sounds of any loudness: as squares and their root, each on 8 bits, it had 12 dB."""
    loud = 10 ** RNG.uniform(-1.5, 0, (64, 1, 1))
    x = (loud * RNG.standard_normal((64, 1, 64))).astype(np.float32)
    qdq = qpipe.calibrate(spectrum(), x)
    assert {"ReduceL2", "Sqrt"} & qpipe.inspect(qdq).ops.keys() == {"ReduceL2"}
    exported = [qpipe.export(qdq, format=form, data=x) for form in ("integer", "qoperator", "qdq")]
    found = [next(run_batches(open_session(model), [x], rows_only=False))[0] for model in exported]
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[2])
    (expected,) = next(run_batches(open_session(ir.from_proto(spectrum())), [x], rows_only=False))
    assert 10 * np.log10(np.square(expected).sum() / np.square(found[0] - expected).sum()) > 25


def test_of_many_numbers_it_is_spelled() -> None:
    node = node_of("ReduceL2(x, axes)", (2, 5), axes=np.array([1]))
    assert "more than 4" in str(op_of(node).refusal(node))


def test_at_zero_its_gradient_is_zero() -> None:
    node = node_of("ReduceL2(x, axes)", (1, 2, 2), axes=np.array([1]))
    x = torch.tensor([[[0.0, 3.0], [0.0, 4.0]]], requires_grad=True)
    op_of(node).torch(node)(x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [[[0, 0.6], [0, 0.8]]], rtol=1e-6)
