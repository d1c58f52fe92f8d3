"""Gather, Tile and Expand by ONNX's reference, through the oracle, the executor and every export."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from qpipe.ir.quantized.view import LastLayer, read_view
from qpipe.ops import op_of
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from support.networks import Weights, float_model, parse
from support.one_node import agree, node_of
from support.quantize import finalized, quantized, to_integer, to_qoperator
from support.random_grids import check
from support.run import assert_exact


def drawn(draw: Any, shape: list[int]) -> tuple[str, np.ndarray]:
    """One of the three with arguments that fit the shape, whose first axis is the batch's."""
    op = draw(st.sampled_from(["Gather", "Tile", "Expand"]))
    if op == "Tile":
        return "Tile({}, k)", np.array([1, *(draw(st.integers(1, 3)) for _ in shape[1:])])
    if op == "Expand":
        wanted = [draw(st.integers(1, 3)) if size == 1 else draw(st.sampled_from([1, size])) for size in shape[1:]]
        return "Expand({}, k)", np.array(wanted if draw(st.booleans()) else [1, *wanted])
    axis = draw(st.integers(1, len(shape) - 1))
    size = shape[axis]
    sign = draw(st.sampled_from([0, len(shape)]))
    places = draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=6))
    return f"Gather<axis={axis - sign}>({{}}, k)", np.array(places)


@settings(max_examples=80)
@given(st.data(), st.lists(st.sampled_from([1, 1, 2, 3]), min_size=1, max_size=3))
def test_the_reference(data: st.DataObject, sizes: list[int]) -> None:
    shape = [2, *sizes]
    x = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-120, 121, shape)
    text, k = drawn(data.draw, shape)
    proto = parse(f"(float[{','.join(map(str, shape))}] x) => (float[] y) {{ y = {text.format('x')} }}", k=k)
    (expected,) = ReferenceEvaluator(proto).run(None, {"x": x.astype(np.float32)})
    node = node_of(text.format("x"), tuple(shape), k=k)
    assert op_of(node).refusal(node) is None
    agree(expected.astype(np.int64), node, x)


@settings(max_examples=20)
@given(st.data())
def test_all_integers_of_all_files(data: st.DataObject) -> None:
    draw = data.draw
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w1", 4, 3, 3, 1)
    text, k = drawn(draw, [1, 4, 3, 1])
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", f"u = {text.format('r')}"]
    nodes += [f"q = {draw(st.sampled_from(['Relu(u)', 'Identity(u)']))}", "f = Flatten(q)"]
    found = float_model("net", (3, 5, 1), [*nodes, "y = Identity(f)"], **w.constants, k=k)
    w.constants["k"] = k
    w.normal("w2", int(found.graph.outputs[0].shape[1]), 3)
    check(draw, [*nodes, "y = MatMul(f, w2)"], (3, 5, 1), w)


@pytest.mark.parametrize(("text", "k"), [
    ("Gather<axis=1>(r, k)", np.array([0, 2, 1, 3])), ("Tile(r, k)", np.array([1, 1, 2, 2])),
    ("Expand(p, k)", np.array([1, 1, 4, 6])),
])  # fmt: skip
def test_it_trains_and_exports(text: str, k: np.ndarray) -> None:
    w = Weights()
    w.normal("w1", 4, 3, 3, 3)
    w.normal("w2", 5, 4, 1, 1)
    pooled = ["p = GlobalAveragePool(r)"] if "(p" in text else []
    nodes = ["c = Conv<pads=[1, 1, 1, 1]>(x, w1)", "r = Relu(c)", *pooled, f"u = {text}", "y = Conv(u, w2)"]
    model = quantized(float_model("net", (3, 4, 6), nodes, **w.constants, k=k))
    executor, x = Executor(model), torch.randn(4, 3, 4, 6)
    assert_exact(model, x.numpy(), executor)
    executor.train()(x)[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in executor.parameters() if p.requires_grad)
    spec = finalized(model)
    for lowered in (to_qoperator(spec), to_integer(spec)):
        run_gate(spec, lowered)


@pytest.mark.parametrize(("text", "k"), [
    ("Tile(r, k)", np.array([1, 2, 1])), ("Tile(r, k)", np.array([1, 3, 2])),
    ("Gather<axis=1>(r, k)", np.array([3, 0, 2])), ("Gather<axis=2>(r, k)", np.array([5, 0])),
])  # fmt: skip
def test_rows_of_every_export(text: str, k: np.ndarray) -> None:
    """`[N, C, L]`, which the integer export holds as images of one line."""
    w = Weights()
    w.normal("w1", 4, 3, 3)
    channels = len(k) if "axis=1" in text else 4 * int(k[1]) if "Tile" in text else 4
    w.normal("w2", 5, channels, 1)
    nodes = ["c = Conv<pads=[1, 1]>(x, w1)", "r = Relu(c)", f"u = {text}", "y = Conv(u, w2)"]
    spec = finalized(quantized(float_model("net", (3, 6), nodes, **w.constants, k=k)))
    for lowered in (to_qoperator(spec), to_integer(spec)):
        run_gate(spec, lowered)


def test_behind_the_last_layer_it_stays_float() -> None:
    w = Weights()
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 5, 4, 1, 1)
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", "d = Conv(r, w2)", "y = Gather<axis=1>(d, k)"]
    view = read_view(quantized(float_model("net", (3, 4, 4), nodes, **w.constants, k=np.array([4, 0, 0]))))
    assert isinstance(view.layers[-1], LastLayer)


@pytest.mark.parametrize(("text", "k", "expected"), [
    ("Gather<axis=1>(x, k)", np.array([[0, 1]]), "its places are of 2 dimensions"),
    ("Gather<axis=1>(x, x)", np.array([0]), "its arguments are computed"),
    ("Gather<axis=1>(k, k)", np.array([0]), "what it takes from are no activations"),
    ("Tile(x, k)", np.array([2, 1, 1]), "it copies the batch"),
    ("Expand(x, k)", np.array([1, 1, 2, 3]), "it adds axes"),
])  # fmt: skip
def test_what_is_refused(text: str, k: np.ndarray, expected: str) -> None:
    proto = parse(f"(float[1,2,3] x) => (float[] y) {{ y = {text} }}", k=k)
    node = ir.from_proto(proto).graph.node(0)
    assert expected in str(op_of(node).refusal(node))
