"""Ops of two activations: their text, all exports, training, and where they stay float; a new one is a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qpipe
from qpipe.arith.certificate import MAX_FINER, factors_row
from qpipe.arith.spec import QuantSpec
from qpipe.ir.graph.residual import find_blocks
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.view import read_view
from qpipe.ops import OPS
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from qpipe.train.write_back import write_back
from support.networks import Network, Weights, float_model, parse
from support.oracle import assert_integers
from support.quantize import finalized_on_grids, quantized, to_qoperator
from support.random_grids import ACTIVATIONS
from support.run import assert_exact, run

Shape = tuple[int, ...]

# numpy's own function, and how many operands' gradients are nothing where all is well.
JOINS: dict[str, Callable[[Any, Any], Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Max": np.maximum,
    "Min": np.minimum,
}
BROADCASTS: dict[str, tuple[Shape, Shape]] = {
    "equal": ((4, 5, 6), (4, 5, 6)),
    "per channel": ((4, 5, 6), (4, 1, 1)),
    "per pixel": ((1, 5, 6), (4, 5, 6)),
    "both": ((4, 1, 6), (1, 5, 1)),
}


def node_of(op: str) -> ir.Node:
    return ir.from_proto(parse(f"(float[N] a, float[N] b) => (float[N] y) {{ y = {op}(a, b) }}")).graph.node(0)


@settings(max_examples=30)
@given(data=st.data())
@pytest.mark.parametrize("op", JOINS)
def test_the_function_is_numpy_s(op: str, data: st.DataObject) -> None:
    """ONNX: multidirectional broadcasting, as numpy has it."""
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    a, b = (rng.integers(-120, 121, [size if data.draw(st.booleans()) else 1 for size in shape]) for _ in range(2))
    found = OPS[op].torch(node_of(op))(torch.from_numpy(a).double(), torch.from_numpy(b).double())
    np.testing.assert_array_equal(found.numpy(), JOINS[op](a, b))


def network(op: str, broadcast: str, seed: int, activation: str, first: str, second: str) -> ir.Model:
    """Two branches of the shapes of a broadcast, joined; weights read what comes of it."""
    w, shapes = Weights(seed), BROADCASTS[broadcast]
    nodes = []
    for name, (channels, height, width), function in zip("ab", shapes, (first, second), strict=True):
        w.normal(f"w{name}", channels, 3, 6 - height, 7 - width)
        nodes += [f"{name}c = Conv(x, w{name})", f"{name} = {function.format(f'{name}c')}"]
    w.normal("w3", 5, 4, 1, 1)
    nodes += [f"j = {op}(a, b)", f"r = {activation.format('j')}", "y = Conv(r, w3)"]
    constants = w.constants | {"low": np.float32(0), "six": np.float32(0.7)}
    used = {name: array for name, array in constants.items() if any(name in node for node in nodes)}
    return float_model("net", (3, 5, 6), nodes, **used)


@settings(max_examples=5)
@given(data=st.data())
@pytest.mark.parametrize("broadcast", BROADCASTS)
@pytest.mark.parametrize("op", JOINS)
def test_all_exports_give_the_same_integers(op: str, broadcast: str, data: st.DataObject) -> None:
    draw = data.draw
    gates = st.sampled_from(["Relu({})", "Identity({})", "Sigmoid({})", "HardSwish({})"])
    seed, bits = draw(st.integers(0, 1000)), draw(st.sampled_from([8, 8, 4]))
    model = network(op, broadcast, seed, draw(ACTIVATIONS), draw(gates), draw(gates))
    spec = finalized_on_grids(model, lambda: draw(st.integers(-3, 3)), bits=bits)
    assert [layer.op_type for layer in read_view(spec).layers].count(op) == 1
    assert certify(read_view(spec)).problems == []
    x = np.random.default_rng(seed).standard_normal((2, 3, 5, 6)).astype(np.float32)
    assert_integers(spec, x, optimize=draw(st.booleans()))
    run_gate(spec, to_qoperator(spec))


@pytest.mark.parametrize("op", JOINS)
def test_operands_of_unlike_grids(op: str) -> None:
    """One pair of grids, without drawing: two powers of two apart."""
    ranges = iter([1, 2, 0, 1])
    model = network(op, "equal", 0, "Identity({})", "Identity({})", "Identity({})")
    spec = finalized_on_grids(model, lambda: next(ranges, 1))
    assert_integers(spec, np.random.default_rng(0).standard_normal((2, 3, 5, 6)).astype(np.float32))
    run_gate(spec, to_qoperator(spec))


def squeeze_and_excitation() -> Network:
    """MobileNetV3's block, with its skip."""
    net = Network(3, 8, 8)
    x = net.op("HardSwish", net.norm(net.conv("x", 3, 8), 8))
    y = net.op("Relu", net.norm(net.conv(x, 8, 8, groups=8), 8))
    s = net.op("Relu", net.conv(net.op("GlobalAveragePool", y), 8, 4, (1, 1), bias=True))
    gate = net.op("HardSigmoid", net.conv(s, 4, 8, (1, 1), bias=True), alpha=1 / 6)
    scaled = net.op("Mul", gate, y, name="scale")
    z = net.norm(net.conv(scaled, 8, 8, (1, 1)), 8)
    net.head(net.op("Add", z, x), 8)
    return net


def test_a_gate_trains_and_evaluates_as_its_file(tmp_path: Any) -> None:
    """From the float network to every export."""
    net = squeeze_and_excitation()
    proto, x = net.proto(net.nodes[-1].output[0]), net.inputs(16)
    assert {n.role for n in qpipe.inspect(proto).nodes if n.op == "Mul"} == {"quantized"}
    model = quantized(net.model(net.nodes[-1].output[0]), x)
    executor = Executor(model)
    for _ in range(2):
        assert_exact(model, x, executor)
        optimizer = torch.optim.SGD(executor.parameters(), 0.05)
        executor.train()(torch.from_numpy(x))[0].square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in executor.parameters() if p.requires_grad)
        optimizer.step()
        executor.eval()
        write_back(executor)
    calibrated = tmp_path / "net.qdq.onnx"
    qpipe.calibrate(proto, x, preprocess={}, output=calibrated)
    for form in ("qdq", "qoperator", "integer"):
        qpipe.export(calibrated, tmp_path / f"{form}.onnx", format=form, data=x)


def test_a_gate_is_no_residual_block() -> None:
    net = squeeze_and_excitation()
    (block,) = find_blocks(net.model(net.nodes[-1].output[0]).graph)
    assert block.add.op_type == "Add"


@pytest.mark.parametrize("op", JOINS)
def test_both_operands_have_gradients(op: str) -> None:
    function = OPS[op].torch(node_of(op))
    a, b = (torch.randn(2, 3, 4, 1).double().requires_grad_(), torch.randn(2, 1, 4, 5).double().requires_grad_())
    assert torch.autograd.gradcheck(function, (a, b))


@pytest.mark.parametrize("op", JOINS)
def test_behind_the_last_weights_it_stays_float(op: str) -> None:
    """What is made of scores keeps their steps; a last layer's are int32. A residual has a grid wherever it stands."""
    w = Weights()
    for name in ("w1", "w2", "w3"):
        w.normal(name, 3, 3, 1, 1)
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", "d = Conv(r, w2)", "e = Conv(r, w3)", f"j = {op}(d, e)", "y = Relu(j)"]
    spec = finalized_on_grids(float_model("net", (3, 4, 4), nodes, **w.constants), lambda: 1)
    view = read_view(spec)
    if op == "Add":
        assert (view.layers[-1].op_type, view.tail) == ("Add", [])
    else:
        assert [layer.quantizer for layer in view.layers[-2:]] == [None, None]
        assert [node.op_type for layer in view.tail for node in layer.nodes] == [op, "Relu"]


GRIDS = st.builds(QuantSpec.for_range, st.integers(2, 8), st.integers(-6, 6), signed=st.booleans())


@settings(max_examples=200)
@given(a=GRIDS, b=GRIDS, output=GRIDS, finer=st.integers(MAX_FINER - 3, MAX_FINER + 3))
def test_a_product_s_proof_is_what_float32_and_int32_hold(
    a: QuantSpec, b: QuantSpec, output: QuantSpec, finer: int
) -> None:
    exponent = a.exponent + b.exponent - finer
    output = QuantSpec(exponent, output.qmin, output.qmax, output.zero_point)
    row = factors_row("m", "Mul", [a, b], output)
    if row.ok:
        ends = np.array([x * y for x in (a.qmin, a.qmax) for y in (b.qmin, b.qmax)])
        scaled = ends.astype(np.float32) * np.float32(a.scale * b.scale) / np.float32(output.scale)
        assert np.array_equal(scaled.astype(np.float64), ends * 2.0**finer)
        assert abs(scaled).max() < 2**31
    assert row.ok == (finer <= MAX_FINER)


def test_grids_beyond_float32_are_refused() -> None:
    model = network("Mul", "equal", 0, "Relu({})", "Identity({})", "Identity({})")
    with pytest.raises(qpipe.LoweringError, match=r"Mul '.*': its operands' exponents are .*, expected a sum of at"):
        finalized_on_grids(model, lambda: -60)


def test_operands_of_unlike_ranks_are_refused() -> None:
    proto = parse(
        "(float[N,4,4] x) => (float[] y) { a = MatMul(x, w) f = Flatten(a) b = Gemm(f, v) [m] c = Mul(a, b) "
        "y = MatMul(c, w) }", w=np.eye(4, dtype=np.float32), v=np.ones((16, 4), np.float32),
    )  # fmt: skip
    (said,) = (node.advice for node in qpipe.inspect(proto).nodes if node.op == "Mul")
    assert "its operands have 2 and 3 dimensions: unsqueeze the one that has fewer" in said


def test_the_float_file_and_the_quantized_one_agree() -> None:
    """The QDQ file of a gate is what the float network is, but for rounding."""
    net = squeeze_and_excitation()
    x = net.inputs(32)
    model = net.model(net.nodes[-1].output[0])
    before = run(model, x)[0]
    after = run(quantized(model, x), x)[0]
    # Eight bits: the mean square error is far below that of a network whose gate is lost (about 1).
    assert np.mean((after - before) ** 2) < 0.05 * np.var(before)
