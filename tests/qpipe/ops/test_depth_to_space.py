"""DepthToSpace and SpaceToDepth by ONNX's text, through the oracle, the executor and every export."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qpipe.ir.quantized.view import LastLayer, read_view
from qpipe.ops import op_of
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from support.networks import Weights, float_model
from support.one_node import agree, node_of
from support.quantize import finalized, quantized, to_qoperator
from support.random_grids import check
from support.run import assert_exact

DOWN = "SpaceToDepth<blocksize={}>({})"
UP = ['DepthToSpace<blocksize={}, mode="DCR">({})', 'DepthToSpace<blocksize={}, mode="CRD">({})']


def by_the_text(text: str, x: np.ndarray, b: int) -> np.ndarray:
    """Pixel by pixel: which channel of a block goes where."""
    n, c, h, w = x.shape
    if text == DOWN:
        y = np.zeros((n, c * b * b, h // b, w // b), x.dtype)
        for (i, j), k in np.ndenumerate(np.arange(b * b).reshape(b, b)):
            y[:, k * c : (k + 1) * c] = x[:, :, i::b, j::b]
        return y
    depth = c // (b * b)
    y = np.zeros((n, depth, h * b, w * b), x.dtype)
    for (i, j), k in np.ndenumerate(np.arange(b * b).reshape(b, b)):
        y[:, :, i::b, j::b] = x[:, k * depth : (k + 1) * depth] if "DCR" in text else x[:, k :: b * b]
    return y


@settings(max_examples=60)
@given(st.data(), st.sampled_from([DOWN, *UP]), st.integers(1, 3))
def test_the_text(data: st.DataObject, text: str, b: int) -> None:
    n, c, h, w = (data.draw(st.integers(1, 3)) for _ in range(4))
    shape = (n, c, h * b, w * b) if text == DOWN else (n, c * b * b, h, w)
    x = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-120, 121, shape)
    agree(by_the_text(text, x, b), node_of(text.format(b, "x"), shape), x)


@settings(max_examples=20)
@given(st.data())
def test_all_integers_of_all_files(data: st.DataObject) -> None:
    draw = data.draw
    w = Weights(draw(st.integers(0, 1000)))
    b, text = draw(st.integers(1, 3)), draw(st.sampled_from([DOWN, *UP]))
    wide = 2 * b * b
    inner, outer = (2, wide) if text == DOWN else (wide, 2)
    w.normal("w1", inner, 3, 1, 1)
    w.normal("w2", 5, outer, 1, 1)
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", f"u = {text.format(b, 'r')}"]
    nodes += [f"q = {draw(st.sampled_from(['Relu(u)', 'Identity(u)']))}", "y = Conv(q, w2)"]
    check(draw, nodes, (3, 2 * b, 3 * b), w)


@pytest.mark.parametrize("text", [DOWN, *UP])
def test_it_trains_and_exports(text: str) -> None:
    w = Weights()
    w.normal("w1", 8, 3, 3, 3)
    w.normal("w2", 4, 32 if text == DOWN else 2, 1, 1)
    nodes = ["c = Conv<pads=[1, 1, 1, 1]>(x, w1)", "r = Relu(c)", f"u = {text.format(2, 'r')}", "y = Conv(u, w2)"]
    model = quantized(float_model("net", (3, 4, 6), nodes, **w.constants))
    executor, x = Executor(model), torch.randn(4, 3, 4, 6)
    assert_exact(model, x.numpy(), executor)
    executor.train()(x)[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in executor.parameters() if p.requires_grad)
    spec = finalized(model)
    run_gate(spec, to_qoperator(spec))


def test_behind_the_last_layer_it_stays_float() -> None:
    w = Weights()
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 12, 4, 1, 1)
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", "d = Conv(r, w2)", "y = DepthToSpace<blocksize=2>(d)"]
    view = read_view(quantized(float_model("net", (3, 4, 4), nodes, **w.constants)))
    assert [layer.op_type for layer in view.tail] == ["DepthToSpace"]
    assert isinstance(view.layers[-1], LastLayer)


@pytest.mark.parametrize(("text", "shape", "expected"), [
    ("DepthToSpace<blocksize=2>(x)", (1, 6, 4, 4), "its blocksize is 2, expected a divisor of the sizes [6, 4, 4]"),
    ("SpaceToDepth<blocksize=2>(x)", (1, 6, 4, 3), "its blocksize is 2, expected a divisor of the sizes [6, 4, 3]"),
])  # fmt: skip
def test_what_is_refused(text: str, shape: tuple[int, ...], expected: str) -> None:
    node = node_of(text, shape)
    assert str(op_of(node).refusal(node)) == expected
