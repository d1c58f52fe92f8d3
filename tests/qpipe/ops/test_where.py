"""Where, by masks and by comparisons: its text, all exports, training, and where it stays float."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qpipe
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.float_free import float_tensors
from qpipe.ir.quantized.view import read_view
from qpipe.ops import OPS
from qpipe.runtime.gate import run_gate
from qpipe.runtime.session import open_session, run_batches
from qpipe.train.executor import Executor
from support.networks import Weights, build, float_model, load, parse
from support.oracle import assert_integers
from support.quantize import finalized_on_grids, quantized, to_qoperator
from support.random_grids import ACTIVATIONS
from support.run import assert_exact

FORMATS = ("qdq", "qoperator", "integer")
# What stands between two branches a and b, `[N, 4, 5, 6]`, and `[N, 4, 1, 1]` of g, and the layer that reads j.
CHOICES = {
    "of two by each other": "l = Less(a, b) j = Where(l, a, b)",
    "of two by a third": "l = GreaterOrEqual(g, b) j = Where(l, a, b)",
    "of one and a number": "l = Greater(a, third) j = Where(l, a, zero)",
    "of a list and one": "l = Equal(b, zero) j = Where(l, list, a)",
    "by And, Or, Not": (
        "l = Less(a, b) m = LessOrEqual(third, b) n = Not(m) o = And(l, n) p = Or(o, mask) j = Where(p, a, b)"
    ),
    "by a constant": "j = Where(mask, a, b)",
    "of two numbers": "l = Greater(a, b) c = Cast<to=1>(l) j = Mul(c, a)",
    "twice by one": "l = Less(a, b) c = Where(l, a, b) d = Where(l, b, third) j = Add(c, d)",
    "of far numbers": "l = Less(a, third) j = Where(l, far, b)",
}


def network(choice: str, seed: int, activation: str, *functions: str) -> ir.Model:
    w = Weights(seed)
    nodes = []
    for name, kernel, function in zip("abg", ((1, 1), (1, 1), (5, 6)), functions, strict=True):
        w.normal(f"w{name}", 4, 3, *kernel)
        nodes += [f"{name}c = Conv(x, w{name})", f"{name} = {function.format(f'{name}c')}"]
    w.normal("w3", 5, 4, 1, 1)
    nodes += [CHOICES[choice], f"r = {activation.format('j')}", "y = Conv(r, w3)"]
    constants = w.constants | {
        "low": np.float32(0), "six": np.float32(0.7), "zero": np.float32(0), "third": np.float32(1 / 3),
        "far": np.float32(-3e7), "list": w.rng.standard_normal((4, 1, 1)).astype(np.float32),
        "mask": w.rng.random((4, 5, 1)) < 0.5,
    }  # fmt: skip
    words = set(re.findall(r"\w+", " ".join(nodes)))
    used = {name: array for name, array in constants.items() if name in words}
    return float_model("net", (3, 5, 6), nodes, **used)


@settings(max_examples=2)
@given(data=st.data())
@pytest.mark.parametrize("choice", CHOICES)
def test_all_exports_give_the_same_integers(choice: str, data: st.DataObject) -> None:
    draw = data.draw
    functions = [draw(st.sampled_from(["Relu({})", "Identity({})", "Sigmoid({})"])) for _ in "abg"]
    seed, bits = draw(st.integers(0, 1000)), draw(st.sampled_from([8, 8, 4]))
    model = network(choice, seed, draw(ACTIVATIONS), *functions)
    spec = finalized_on_grids(model, lambda: draw(st.integers(-3, 3)), bits=bits)
    view = read_view(spec)
    assert (view.islands, view.lookups, view.tail) == ([], [], [])
    assert certify(view).problems == []
    x = np.random.default_rng(seed).standard_normal((2, 3, 5, 6)).astype(np.float32)
    assert_integers(spec, x, optimize=draw(st.booleans()))
    run_gate(spec, to_qoperator(spec))


# Masks as exporters write them, of `[N, 5]` tokens or truth values, on features `[N, 5, 6]`.
MASKS = {
    "truth": ("bool[N,5] m", "u = Unsqueeze(m, two) j = Where(u, a, zero)"),
    "not truth": ("bool[N,5] m", "n = Not(m) u = Unsqueeze(n, two) e = Expand(u, shape) j = Where(e, zero, a)"),
    "tokens, and a comparison": (
        "int64[N,5] m",
        "n = Greater(m, none) u = Unsqueeze(n, two) l = Less(a, half) o = And(u, l) j = Where(o, a, half)",
    ),
    "fewer axes": ("bool[5,1] m", "j = Where(m, a, zero)"),
}  # fmt: skip


def masked(mask: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    declared, nodes = MASKS[mask]
    rng = np.random.default_rng(1)
    constants = {
        "two": np.array([2]), "zero": np.float32(0), "half": np.float32(0.5), "none": np.int64(0),
        "shape": np.array([1, 5, 6]),
    }  # fmt: skip
    weights = {name: rng.standard_normal(shape).astype(np.float32) / 2 for name, shape in
               {"w1": (4, 6), "w2": (6, 6), "w3": (6, 3)}.items()}  # fmt: skip
    proto = parse(
        f"(float[N,5,4] x, {declared}) => (float[] y) {{ c = MatMul(x, w1) a = Tanh(c) {nodes} d = MatMul(j, w2) "
        "r = Relu(d) y = MatMul(r, w3) }",
        **weights, **{name: array for name, array in constants.items() if f" {name})" in nodes or f" {name}," in nodes},
    )  # fmt: skip
    rows = (5, 1) if mask == "fewer axes" else (32, 5)
    numbers = rng.integers(-1, 2, rows)
    data = {"x": rng.standard_normal((32, 5, 4)).astype(np.float32), "m": numbers if "int" in declared else numbers > 0}
    return proto, data


@pytest.mark.parametrize("mask", [mask for mask in MASKS if mask != "fewer axes"])
def test_a_mask_has_integers_in_all_exports(mask: str) -> None:
    proto, data = masked(mask)
    assert "float island" not in qpipe.inspect(proto).roles
    qdq = qpipe.calibrate(proto, data)
    (layer,) = (layer for layer in read_view(qdq).layers if layer.op_type == "Where")
    assert layer.sources[0].grid.exponent == 0 or "comparison" in mask
    found = {}
    for form in FORMATS:
        # Its gate compares every integer with the oracle.
        exported = qpipe.export(qdq, format=form, data=data)
        found[form] = next(run_batches(open_session(exported), [data], rows_only=False))[0]
        assert form != "integer" or float_tensors(exported) == []
    np.testing.assert_array_equal(found["integer"], found["qdq"])
    np.testing.assert_array_equal(found["qoperator"], found["qdq"])
    real = next(run_batches(open_session(load(proto)), [data], rows_only=False))[0]
    # Eight bits; without its mask the network is as far from that as from another network.
    assert np.square(found["qdq"] - real).mean() < 0.02 * np.square(real).mean()


def test_a_mask_gets_the_axes_that_it_lacks() -> None:
    proto, _ = masked("fewer axes")
    model = load(proto)
    (where,) = (node for node in model.graph if node.op_type == "Where")
    (number, _) = OPS["Where"].operands(where)
    assert number.shape == (1, 5, 1)


def test_a_mask_trains_and_evaluates_as_its_file() -> None:
    proto, data = masked("tokens, and a comparison")
    labels = (data["x"][:, :, :3] > 0).astype(np.float32)
    qdq = qpipe.calibrate(proto, data)
    trained = qpipe.finetune(qdq, data | {"labels": labels}, epochs=1, batch_size=16)
    executor = Executor(trained)
    given_ = {name: torch.from_numpy(array) for name, array in data.items()}
    with torch.no_grad():
        ours = executor.eval()(given_)[0].numpy()
    theirs = next(run_batches(open_session(qpipe.export(trained, format="qdq", data=data)), [data], rows_only=False))[0]
    np.testing.assert_array_equal(ours.astype(np.float32), theirs)


def test_what_is_chosen_has_the_gradient() -> None:
    model = build("(float[N,4] c, float[N,4] a, float[N,1] b) => (float[] y) { l = Less(c, b) y = Where(l, a, c) }")
    where = model.graph.node(1)
    assert [value.name for value in OPS["Where"].operands(where)] == ["c", "b", "a"]
    c, b, a = (torch.randn(3, size).double().requires_grad_() for size in (4, 1, 4))
    y = OPS["Where"].torch(where)(c, b, a)
    assert torch.equal(y, torch.where(c < b, a, c))
    y.sum().backward()
    assert torch.equal(a.grad, (c < b).double())
    assert torch.equal(c.grad, (c >= b).double())
    assert b.grad is None


def test_two_activations_train_through_all_layers() -> None:
    model = quantized(network("of two by each other", 0, "Relu({})", "Relu({})", "Identity({})", "Identity({})"))
    executor, x = Executor(model), np.random.default_rng(0).standard_normal((8, 3, 5, 6)).astype(np.float32)
    assert_exact(model, x, executor)
    executor.train()(torch.from_numpy(x))[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in executor.parameters() if p.requires_grad)


@pytest.mark.parametrize(("condition", "bits"), [("mask", 16), ("Less(s, n)", 8)])
def test_it_reads_a_stream_of_16_bits(condition: str, bits: int) -> None:
    """Where it compares two numbers, of the stream too, it has 8 bits of them."""
    w = Weights(1)
    for name in ("w1", "w2", "w3"):
        w.normal(name, 6, 6)
    nodes = [
        "a = MatMul(x, w1)", "b = MatMul(a, w2)", "s = Add(a, b)", "n = LayerNormalization<axis=-1>(s, ones, zeros)",
        f"l = {'Identity' * (condition == 'mask')}{condition if '(' in condition else '(mask)'}", "j = Where(l, s, n)",
        "y = MatMul(j, w3)",
    ]  # fmt: skip
    constants: dict[str, Any] = {"ones": np.ones(6, np.float32), "zeros": np.zeros(6, np.float32)}
    if condition == "mask":
        constants["mask"] = w.rng.random((5, 1)) < 0.5
    spec = finalized_on_grids(float_model("net", (5, 6), nodes, **constants, **w.constants), lambda: 1)
    (layer,) = (layer for layer in read_view(spec).layers if layer.op_type == "Where")
    assert layer.sources[0].grid.bits == bits
    assert_integers(spec, np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32))
    run_gate(spec, to_qoperator(spec))


STAYS = {
    "a condition of an island": ("e = CumSum(a, axis) l = IsNaN(e) j = Where(l, a, b)", "masks: leave it"),
    "infinite": ("l = Less(a, b) j = Where(l, a, low)", "one of its operands is infinite: put a finite number"),
    "fewer axes": (
        "m = ReduceMax<keepdims=0>(b, one) l = Less(a, b) j = Where(l, m, a)", "2 and 3 dimensions: unsqueeze",
    ),
    "compared with more axes": ("l = Less(a, more) j = Where(l, a, b)", "3 and 4 dimensions: unsqueeze"),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_what_stays_an_island_says_why(name: str) -> None:
    nodes, said = STAYS[name]
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {"axis": np.array(1), "low": np.float32(-np.inf), "one": np.array([1])}
    constants["more"] = np.zeros((1, 1, 1, 4), np.float32)
    used = {key: array for key, array in constants.items() if f" {key})" in nodes}
    weights = {key: rng.standard_normal((4, 4)).astype(np.float32) for key in ("w1", "w2", "w3")}
    proto = parse(
        f"(float[N,4,4] x) => (float[] y) {{ a = MatMul(x, w1) b = MatMul(x, w2) {nodes} y = MatMul(j, w3) }}",
        **used,
        **weights,
    )
    (where,) = (node for node in qpipe.inspect(proto).nodes if node.op == "Where")
    assert said in where.advice


def test_what_is_compared_in_float_stays_so() -> None:
    """Positions and lengths: 8 bits could tell another order."""
    rng = np.random.default_rng(0)
    weights = {key: rng.standard_normal((4, 4)).astype(np.float32) for key in ("w1", "w2")}
    proto = parse(
        "(float[N,300,4] x, int64[N,1,1] length) => (float[] y) { a = MatMul(x, w1) f = Cast<to=1>(length) "
        "l = Less(positions, f) j = Where(l, a, zero) y = MatMul(j, w2) }",
        **weights, positions=np.arange(300, dtype=np.float32)[None, :, None], zero=np.float32(0),
    )  # fmt: skip
    roles = {node.op: node.role for node in qpipe.inspect(proto).nodes}
    assert (roles["Less"], roles["Where"], roles["MatMul"]) == ("float island", "float island", "quantized")


def test_behind_the_last_weights_it_stays_float() -> None:
    """Scores keep their steps."""
    w = Weights()
    for name in ("w1", "w2", "w3"):
        w.normal(name, 3, 3, 1, 1)
    nodes = [
        "c = Conv(x, w1)",
        "r = Relu(c)",
        "d = Conv(r, w2)",
        "e = Conv(r, w3)",
        "l = Less(d, e)",
        "y = Where(l, d, e)",
    ]
    view = read_view(finalized_on_grids(float_model("net", (3, 4, 4), nodes, **w.constants), lambda: 1))
    assert [layer.quantizer for layer in view.layers[-2:]] == [None, None]
    assert [layer.op_type for layer in view.tail] == ["Where"]
