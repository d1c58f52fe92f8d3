"""ReduceMean, ReduceSum, ReduceMax, ReduceMin over any axes: their text, all exports, training, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qpipe
from qpipe.ops import op_of
from qpipe.runtime.gate import run_gate
from support.networks import Weights, float_model, parse
from support.one_node import by_the_oracle, drawn, node_of
from support.oracle import assert_integers
from support.quantize import finalized_on_grids, to_qoperator
from support.random_grids import ACTIVATIONS, check

REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceMean": np.mean, "ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min,
}  # fmt: skip


@settings(max_examples=40)
@given(data=st.data(), keepdims=st.booleans())
@pytest.mark.parametrize("op", REDUCTIONS)
def test_the_function_is_numpy_s(op: str, data: st.DataObject, keepdims: bool) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    axes = data.draw(st.lists(st.integers(1, len(shape) - 1), min_size=1, unique=True))
    x = drawn(data.draw, *shape)
    signed = np.array([axis - data.draw(st.sampled_from([0, len(shape)])) for axis in axes])
    node = node_of(f"{op}<keepdims = {keepdims:d}>(x, axes)", tuple(shape), axes=signed)
    expected = REDUCTIONS[op](x, axis=tuple(axes), keepdims=keepdims)
    y = op_of(node).torch(node)(torch.from_numpy(x).double()).numpy()
    # The mean of whole numbers is the nearest float64 to the quotient.
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(by_the_oracle(node, x), np.clip(np.round(expected), -128, 127))


@settings(max_examples=4)
@given(data=st.data(), keepdims=st.booleans())
@pytest.mark.parametrize("op", REDUCTIONS)
def test_all_exports_give_the_same_integers(op: str, data: st.DataObject, keepdims: bool) -> None:
    """A row of results that a matrix reads."""
    draw = data.draw
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w1", 4, 3, 1, 1)
    axes = draw(st.sampled_from([(1,), (2,), (3,), (1, 2), (2, 3), (1, 3), (1, 2, 3)]))
    size = math.prod(n for axis, n in enumerate((4, 5, 7), 1) if axis not in axes)
    w.normal("w2", size, 3)
    reduced = f"m = {op}<keepdims = {keepdims:d}>(r, axes)"
    flat = "f = Flatten(m)" if keepdims or len(axes) < 3 else "f = Reshape(m, row)"
    nodes = ["c = Conv(x, w1)", f"r = {draw(ACTIVATIONS).format('c')}", reduced, flat, "y = MatMul(f, w2)"]
    w.constants |= {"axes": np.array(axes), "row": np.array([-1, 1])}
    check(draw, nodes, (3, 5, 7), w, gate=True, optimize=draw(st.booleans()))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("apart", [0, 9, 12])
def test_a_mean_of_many_far_finer_than_what_it_is_of(apart: int, *, signed: bool) -> None:
    """The sum in steps of the result would leave int32."""
    w = {"w1": np.ones((1, 1, 1, 1), np.float32), "w2": np.ones((1, 1), np.float32)}
    relu = [] if signed else ["r = Relu(c)"]
    nodes = ["c = Conv(x, w1)", *relu, f"m = ReduceMean<keepdims = 0>({'c' if signed else 'r'}, axes)",
             "f = Reshape(m, row)", "y = MatMul(f, w2)"]  # fmt: skip
    tops = iter([3, 3, 3 - apart, *[3 - apart] * 9])
    model = float_model("net", (1, 120, 123), nodes, axes=np.array([1, 2, 3]), row=np.array([-1, 1]), **w)
    spec = finalized_on_grids(model, lambda: next(tops), negative=signed)
    x = np.random.default_rng(0).standard_normal((4, 1, 120, 123)).astype(np.float32)
    # All of it at one end, and near 0, where the grid of the result is.
    x[0], x[1], x[2] = 7, -7, x[2] * 2.0**-apart
    assert_integers(spec, x)
    run_gate(spec, to_qoperator(spec))


@pytest.mark.parametrize("op", REDUCTIONS)
def test_gradients_reach_every_axis(op: str) -> None:
    node = node_of(f"{op}(x, axes)", (2, 3, 4), axes=np.array([1]))
    x = torch.randn(2, 3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(op_of(node).torch(node), (x,))


@pytest.mark.parametrize(("text", "shape", "constants", "said"), [
    ("ReduceSum(x, axes)", "N,3,4", {"axes": np.array([0, 1])}, "it reduces the first axis, which counts images"),
    ("ReduceMean(x)", "N,3,4", {}, "it reduces the first axis"),
    ("ReduceSum(x, axes)", "N,3,L", {"axes": np.array([2])}, "how many numbers it sums is open"),
    ("ReduceMax<noop_with_empty_axes = 1>(x)", "N,3,4", {}, "it does nothing, because it has no axes"),
])  # fmt: skip
def test_refusals(text: str, shape: str, constants: dict[str, Any], said: str) -> None:
    node = ir.from_proto(parse(f"(float[{shape}] x) => (float[] y) {{ y = {text} }}", **constants)).graph.node(0)
    assert said in str(op_of(node).refusal(node))


def test_behind_the_last_weights_it_stays_float() -> None:
    proto = parse(
        "(float[N,3,4,4] x) => (float[] y) { c = Conv(x, w) [m] y = ReduceMax(c, axes) }",
        w=np.ones((3, 3, 1, 1), np.float32), axes=np.array([1]),
    )  # fmt: skip
    assert {node.name: node.role for node in qpipe.inspect(proto).nodes}["m"] == "float tail"
