"""Div of two activations: its integers by every runtime, zeros among the divisors, and where it stays float."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qpipe
from qpipe.arith.quotient import quotient_steps
from qpipe.arith.spec import QuantSpec
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.view import read_view
from qpipe.ops import OPS
from qpipe.runtime.gate import run_gate
from support.networks import Weights, float_model, parse
from support.oracle import assert_integers
from support.quantize import finalized_on_grids, quantized, to_qoperator
from support.run import assert_exact, run


@settings(max_examples=60)
@given(shift=st.integers(-20, 20), signed=st.booleans(), seed=st.integers(0, 999))
def test_quotients_are_rounded_half_to_even(shift: int, signed: bool, seed: int) -> None:
    """Python's own rounding of fractions; the sign of 0 is that of what is positive, and 0 divides as 1 does."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-255, 256, 50), rng.integers(-255 if signed else 0, 256, 50)
    b[:3] = 0
    found = quotient_steps(a, b, shift, signed=signed).clip(-255, 255)
    exact = [round(Fraction(int(n), int(d) or 1) * Fraction(2) ** shift) for n, d in zip(a, b, strict=True)]
    np.testing.assert_array_equal(found, np.clip(np.array(exact, object), -255, 255).astype(np.int64))


def test_float32_rounds_every_quotient_of_codes_to_the_same_code() -> None:
    """All of them, at each shift that leaves more than one code."""
    a, b = np.meshgrid(np.arange(256), np.arange(1, 256))
    for shift in range(-9, 17):
        real = a.astype(np.float32) * np.float32(2.0**shift) / b.astype(np.float32)
        found = np.minimum(quotient_steps(a, b, shift, signed=False), 255)
        np.testing.assert_array_equal(np.minimum(np.round(real), 255), found)


def network(shapes: str, gates: tuple[str, str], behind: str) -> ir.Model:
    """A quotient of two branches; weights read it."""
    w, size = Weights(0), {"equal": (4, 6, 7), "per image and channel": (4, 1, 1), "per pixel": (1, 6, 7)}[shapes]
    w.normal("w0", 4, 3, 1, 1)
    w.normal("w1", size[0], 3, 7 - size[1], 8 - size[2])
    w.normal("w2", 5, 4, 1, 1)
    first, second = gates
    nodes = [
        "p = Conv(x, w0)", f"a = {first.format('p')}", "q = Conv(x, w1)", f"b = {second.format('q')}",
        "j = Div(a, b)", f"r = {behind.format('j')}", "y = Conv(r, w2)",
    ]  # fmt: skip
    constants = w.constants | {"low": np.float32(0), "six": np.float32(0.7)}
    used = {name: array for name, array in constants.items() if any(name in node for node in nodes)}
    return float_model("net", (3, 6, 7), nodes, **used)


@settings(max_examples=4)
@given(data=st.data())
@pytest.mark.parametrize("shapes", ["equal", "per image and channel", "per pixel"])
def test_all_exports_give_the_same_integers(shapes: str, data: st.DataObject) -> None:
    """Relu's and the noise's divisors are 0 in many places."""
    draw = data.draw
    gates = draw(st.sampled_from(["Relu({})", "Identity({})"])), draw(st.sampled_from(["Relu({})", "Identity({})"]))
    model = network(shapes, gates, draw(st.sampled_from(["Relu({})", "Identity({})", "Clip({}, low, six)"])))
    spec = finalized_on_grids(model, lambda: draw(st.integers(-4, 4)), bits=draw(st.sampled_from([8, 8, 4])))
    assert [layer.op_type for layer in read_view(spec).layers].count("IntegerDiv") == 1
    assert certify(read_view(spec)).problems == []
    x = np.random.default_rng(draw(st.integers(0, 99))).standard_normal((2, 3, 6, 7)).astype(np.float32)
    assert_integers(spec, x, optimize=draw(st.booleans()))
    run_gate(spec, to_qoperator(spec))


@pytest.mark.parametrize("distance", [-40, 40])
def test_grids_far_apart(distance: int) -> None:
    """What is nothing but 0, and what saturates everywhere."""
    ranges = iter([1, 1, 1 + distance, 1])
    spec = finalized_on_grids(network("equal", ("Relu({})", "Relu({})"), "Identity({})"), lambda: next(ranges, 1))
    assert certify(read_view(spec)).problems == []
    assert_integers(spec, np.random.default_rng(0).standard_normal((2, 3, 6, 7)).astype(np.float32))
    run_gate(spec, to_qoperator(spec))


def test_a_wrong_step_is_no_proof() -> None:
    spec = finalized_on_grids(network("equal", ("Relu({})", "Relu({})"), "Identity({})"), lambda: 1)
    (node,) = [node for node in spec.graph if node.op_type == "IntegerDiv"]
    step = node.inputs[2]
    assert step is not None
    step.const_value = ir.tensor(np.array(3, np.float32), name=step.name)
    assert any("step" in problem for problem in certify(read_view(spec)).problems)


def test_it_trains_and_evaluates_as_its_file(tmp_path: Any) -> None:
    """Softmax-free attention's normalization; the quotient, and not a table of reciprocals, is rounded."""
    w = Weights(1)
    w.normal("w0", 4, 3, 1, 1)
    w.normal("w2", 5, 4, 1, 1)
    nodes = [
        "p = Conv(x, w0)", "r = Relu(p)", "s = ReduceSum(r, axis)", "t = Add(s, small)", "d = Div(r, t)",
        "y = Conv(d, w2)",
    ]  # fmt: skip
    constants = w.constants | {"axis": np.array([1]), "small": np.float32(1e-3)}
    model = float_model("net", (3, 6, 7), nodes, **constants)
    x = np.random.default_rng(0).standard_normal((16, 3, 6, 7)).astype(np.float32)
    (exact,) = run(model, x)
    trainable = quantized(model.clone(), x)
    assert_exact(trainable, x)
    calibrated = tmp_path / "net.qdq.onnx"
    qpipe.calibrate(ir.to_proto(model), x, preprocess={}, output=calibrated)
    for form in ("qdq", "qoperator", "integer"):
        qpipe.export(calibrated, tmp_path / f"{form}.onnx", format=form, data=x)
    (found,) = run(ir.load(tmp_path / "qdq.onnx"), x)
    # A table of reciprocals, which the smallest divisors spoil, has 3 dB.
    assert np.square(exact - found).sum() < np.square(exact).sum() / 100


def test_the_function_is_numpy_s_and_has_gradients() -> None:
    node = ir.from_proto(parse("(float[N] a, float[N] b) => (float[N] y) { y = Div(a, b) }")).graph.node(0)
    function = OPS["Div"].torch(node)
    a = torch.randn(2, 3, 4, 1).double().requires_grad_()
    b = (torch.rand(2, 1, 4, 5).double() + 0.5).requires_grad_()
    np.testing.assert_array_equal(function(a, b).detach(), a.detach().numpy() / b.detach().numpy())
    assert torch.autograd.gradcheck(function, (a, b))
    assert function(a, torch.zeros(1).double()).isfinite().all()


@pytest.mark.parametrize("divisor", ["GlobalAveragePool(e)", "ReduceMean(x)"])
def test_what_stays_float(divisor: str) -> None:
    """One number of each image, or of all."""
    model = parse(
        f"(float[N,1,4,4] x) => (float[N,1,4,4] y) {{ e = Exp(x) m = {divisor} d = Div(x, m) y = Conv(d, w) }}"
    )
    w = ir.serde.serialize_tensor(ir.tensor(np.ones((1, 1, 1, 1), np.float32), name="w"))
    model.graph.initializer.append(w)
    (found,) = [node for node in qpipe.inspect(model).nodes if node.op == "Div"]
    assert "one number" in str(found)


def test_a_grid_that_is_too_fine_is_made_coarser() -> None:
    node = ir.from_proto(parse("(float[N] a, float[N] b) => (float[N] y) { y = Div(a, b) }")).graph.node(0)
    coarse, fine = QuantSpec.for_range(8, 8, signed=True), QuantSpec.for_range(8, -40, signed=True)
    assert OPS["Div"].fitted(node, [coarse, coarse], fine).exponent == -22
