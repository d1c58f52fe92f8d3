"""Roots, Exp, Log and Reciprocal as tables: their entries, all exports, training, and a quotient of activations."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.normalize import normalize
from passes.shipping.remove_quantizers import RemoveQuantizers
from qpipe.arith.spec import QuantSpec
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.ir.quantized.view import read_view
from qpipe.ops import Curve, curve_of
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from qpipe.train.write_back import write_back
from support.networks import Weights, checked, float_model
from support.oracle import assert_integers
from support.quantize import finalized, quantized, to_qoperator
from support.run import assert_exact, run

# torch's own functions, of what is positive.
FUNCTIONS = {
    "Sqrt": ({}, torch.sqrt),
    "Pow": ({"exponent": 0.3}, lambda x: x.pow(0.3)),
    "Exp": ({}, torch.exp),
    "Log": ({}, torch.log),
    "Reciprocal": ({}, torch.reciprocal),
    "Pow of a quotient": ({"exponent": -0.5}, torch.rsqrt),
}
STEEP = ("Exp", "Log", "Reciprocal", "Pow of a quotient")
NOISE = 0.02
"""Of each export's result in parts of the float network's, by power: three roundings to 8 bits, of 17 dB and more."""


def function_of(name: str) -> Curve:
    found = curve_of(name.split()[0], "", FUNCTIONS[name][0])
    assert found is not None
    return found


def network(name: str, *, seed: int = 0) -> ir.Model:
    """Two layers, and the function of what is from 1 to 5, alone behind a pool; two layers behind it."""
    w = Weights(seed)
    for weight, shape in {"w1": (6, 3, 3, 3), "w2": (5, 6, 1, 1), "w3": (4, 5)}.items():
        w.normal(weight, *shape)
    numbers = FUNCTIONS[name][0]
    call = f"e = {name.split()[0]}(a{', k' if numbers else ''})"
    nodes = [
        "c = Conv(x, w1)", "s = Sigmoid(c)", "m = MaxPool<kernel_shape = [2, 2]>(s)", "b = Mul(m, four)",
        "a = Add(b, one)", call, "d = Conv(e, w2)", "r = Relu(d)", "g = GlobalAveragePool(r)", "f = Flatten(g)",
        "y = Gemm<transB = 1>(f, w3)",
    ]  # fmt: skip
    constants = {"four": np.float32(4), "one": np.float32(1)}
    constants |= {"k": np.float32(numbers["exponent"])} if numbers else {}
    return float_model("net", (3, 6, 6), nodes, **constants, **w.constants)


@settings(max_examples=40)
@given(
    name=st.sampled_from(list(FUNCTIONS)),
    before=st.builds(QuantSpec.for_range, st.integers(2, 8), st.integers(-6, 6), signed=st.booleans()),
    after=st.builds(QuantSpec.for_range, st.integers(2, 8), st.integers(-6, 6), signed=st.booleans()),
)
def test_entries_are_the_nearest_integers_on_their_grid(name: str, before: QuantSpec, after: QuantSpec) -> None:
    table = function_of(name).table(before, after.bits, after=after)
    assert table.grid == after
    codes = np.arange(before.stored_min, before.stored_max + 1)
    x = (codes - before.zero_point) * before.scale
    found = np.array(table.reached) - after.zero_point
    y = FUNCTIONS[name][1](torch.from_numpy(x).double()).numpy()
    inside = np.isfinite(y) & (x > 0)
    in_steps = np.clip(y / after.scale, after.qmin, after.qmax)
    assert np.abs(found - in_steps)[inside].max(initial=0) <= 0.5 + 1e-9
    # What has no such function saturates, at the end that is near.
    at_zero = {"Log": after.qmin, "Reciprocal": after.qmax, "Pow of a quotient": after.qmax, "Exp": None}.get(name, 0)
    if at_zero is not None:
        assert (found[x == 0] == at_zero).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_exports_give_the_same_integers_near_the_float_network(name: str) -> None:
    x = np.random.default_rng(1).standard_normal((8, 3, 6, 6)).astype(np.float32)
    expected = run(network(name), x)[0]
    spec = finalized(quantized(network(name)))
    assert not read_view(spec).islands
    assert certify(read_view(spec)).problems == []
    assert_integers(spec, x)
    run_gate(spec, to_qoperator(spec))
    error = run(spec, x)[0] - expected
    assert np.square(error).sum() < NOISE * np.square(expected).sum()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_steep_one_has_the_grid_of_what_was_observed(name: str) -> None:
    model = network(name)
    normalize(model)
    (value,) = (node.outputs[0] for node in model.graph if node.op_type == name.split()[0])
    planned = plan_quantization(model.graph).quantizers[value]
    assert (planned.curve is None) == (name in STEEP)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_float_network_comes_back(name: str) -> None:
    # No weight is moved for the sake of its pair.
    model, before = quantized(network(name), cpu="vnni"), network(name)
    normalize(before)
    RemoveQuantizers()(model)
    checked(model)
    x = np.random.default_rng(1).standard_normal((4, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(run(model, x)[0], run(before, x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_trains_and_evaluates_as_its_file(name: str) -> None:
    model = quantized(network(name))
    executor, x = Executor(model), torch.randn(8, 3, 6, 6)
    for _ in range(2):
        assert_exact(model, x.numpy(), executor)
        executor.train()(x)[0].square().mean().backward()
        assert all(
            p.grad is not None and bool(p.grad.isfinite().all()) for p in executor.parameters() if p.requires_grad
        )
        with torch.no_grad():
            for parameter in executor.parameters():
                parameter -= 0.01 * (0 if parameter.grad is None else parameter.grad.sign())
        executor.eval()
        write_back(executor)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_finite_where_the_function_has_none(name: str) -> None:
    x = torch.tensor([-2.0, -0.0, 0.0, 1e-30, 1.0, 1e30]).requires_grad_()
    y = function_of(name).real(x)
    y.sum().backward()
    assert x.grad is not None
    assert bool(y.isfinite().all())
    assert bool(x.grad.isfinite().all())


def test_a_quotient_of_activations_is_a_product_with_a_reciprocal() -> None:
    """Also by 0, which has a number."""
    w = Weights(0)
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 2, 4, 1, 1)
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", "m = GlobalAveragePool(r)", "q = Div(r, m)", "y = Conv(q, w2)"]
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 5)).astype(np.float32)
    expected = run(float_model("net", (3, 5, 5), nodes, **w.constants), x)[0]
    spec = finalized(quantized(float_model("net", (3, 5, 5), nodes, **w.constants), x))
    assert not read_view(spec).islands
    error = run(spec, x)[0] - expected
    assert np.square(error).sum() < NOISE * np.square(expected).sum()
    x[0] = 0
    assert np.isfinite(run(spec, x)[0]).all()
    assert_integers(spec, x)
    run_gate(spec, to_qoperator(spec))
