"""LayerNormalization in integers: near the real one, every integer in every form, training, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from passes.shipping.remove_quantizers import RemoveQuantizers
from qpipe.arith.layer_norm import (
    LONGEST_ROW,
    MOST_FRACTION_BITS,
    QUOTIENT_BITS,
    fit_rows,
    largest_quotient,
    quotients,
    row_scale,
    scale_problem,
)
from qpipe.arith.rows import ROOT_BITS
from qpipe.arith.spec import QuantSpec
from qpipe.errors import ModelError
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.parts import split
from qpipe.ir.quantized.view import RequantizedLayer, read_view
from qpipe.nodes import constant_input, set_constant_input
from qpipe.ops import op_of
from qpipe.ops.layer_norm import IntegerLayerNormalization
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from qpipe.train.write_back import write_back
from support.networks import Weights, build, float_model, ops
from support.quantize import finalized, finalized_on_grids, quantized, to_integer, to_qoperator
from support.random_grids import ACTIVATIONS, check
from support.run import assert_exact, run

INT32_MAX = 2**31 - 1
GRIDS = st.builds(QuantSpec.for_range, st.integers(2, 8), st.integers(-12, 12), signed=st.booleans())


def around(w: Weights, size: int, *, bias: bool = True, epsilon: float = 1e-5) -> list[str]:
    """LayerNormalization of rows of so many numbers between two MatMuls; gamma has both signs and a zero."""
    w.normal("w1", 5, size)
    w.normal("w2", size, 4)
    w.normal("w3", 4, 3)
    gamma = w.rng.standard_normal(size) * 2
    gamma[size // 2] = 0
    w.constants |= {"g": gamma.astype(np.float32), "b": w.rng.standard_normal(size).astype(np.float32)}
    if not bias:
        del w.constants["b"]
    call = f"LayerNormalization<axis = -1, epsilon = {epsilon}>(h, g{', b' if bias else ''})"
    return ["h = MatMul(x, w1)", f"[norm] n = {call}", "r = {}", "m = MatMul(r, w2)", "y = MatMul(m, w3)"]


def between(w: Weights, size: int, activation: str = "Identity({})", **options: Any) -> list[str]:
    return [node.replace("{}", activation.format("n")) for node in around(w, size, **options)]


def model_of(size: int = 24, **options: Any) -> Any:
    w = Weights(0)
    nodes = between(w, size, **options)
    return float_model("net", (9, 5), nodes, **w.constants)


@settings(max_examples=20)
@given(st.data())
def test_every_integer(data: st.DataObject) -> None:
    size, w = data.draw(st.integers(2, 150)), Weights(data.draw(st.integers(0, 1000)))
    epsilon, bias = data.draw(st.sampled_from([1e-5, 1e-12, 0.1, 1e4])), data.draw(st.booleans())
    check(data.draw, between(w, size, data.draw(ACTIVATIONS), bias=bias, epsilon=epsilon), (3, 5), w)


@pytest.mark.parametrize("lower", [to_qoperator, to_integer])
def test_the_gate(lower: Any) -> None:
    spec = finalized_on_grids(model_of(), lambda: 2)
    assert certify(read_view(spec)).problems == []
    assert run_gate(spec, lower(spec)).integers > 10_000


@settings(max_examples=100)
@given(
    source=GRIDS, count=st.integers(2, 600), epsilon=st.sampled_from([1e-12, 1e-6, 1e-5, 0.1]),
    kind=st.integers(0, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_quotients_are_the_normalized_numbers(
    source: QuantSpec, count: int, epsilon: float, kind: int, seed: int
) -> None:
    rng, low, high = np.random.default_rng(seed), source.stored_min, source.stored_max
    codes = rng.integers(low, high + 1, (4, count))
    one_higher = np.tile(low + (np.arange(count) == 1), (4, 1))
    stored = [codes, np.where(codes % 2, low, high), np.full((4, count), high), one_higher][kind]
    scale = row_scale(source, count, epsilon, centred=True)
    assert scale_problem(source, count, scale, centred=True) is None
    t = quotients(stored, scale, centred=True)
    assert np.abs(t).max() <= largest_quotient(scale)
    x = torch.from_numpy((stored - source.zero_point) * source.scale)
    expected = F.layer_norm(x, (count,), eps=epsilon).numpy() / np.sqrt(count)
    found = np.ldexp(t.astype(float), fit_rows(np.ones(1), np.zeros(1), scale, source)[1])
    # The mean is rounded to 2**-f of a step, the root down to a whole number, the quotient to a whole number; the
    # rounded mean and eps move the root by less than both.
    values = (stored - stored.mean(-1, keepdims=True)) * float(scale.fraction)
    root = np.sqrt((values**2).sum(-1, keepdims=True) / float(scale.reduction) + float(scale.epsilon))
    bound = 2 / np.floor(root).clip(1) + 2 / 2**QUOTIENT_BITS
    assert (np.abs(found - expected) <= bound).all()


def test_sums_of_squares_are_within_bounds_of_any_grid() -> None:
    """Half at either end, the row of the largest sum, with and without a mean to take off."""
    for count in (2, 3, 64, 1000, LONGEST_ROW):
        for source in (QuantSpec.unsigned(8, -4), QuantSpec.signed(8, -4)):
            scale = row_scale(source, count, 1e-5, centred=True)
            fraction = int(scale.fraction)
            values = np.where(np.arange(count) % 2, source.stored_min, source.stored_max) * fraction
            total = int(((values - round(values.mean())) ** 2).sum())
            assert total + int(scale.epsilon) <= 2**ROOT_BITS
            # No fraction bit is left away that there is room for: twice the fraction, four times the sum.
            assert fraction == 2**MOST_FRACTION_BITS or total * 4.1 > 2 ** (ROOT_BITS - 1)


def test_it_is_near_the_real_one() -> None:
    model = model_of()
    x = np.random.default_rng(0).standard_normal((64, 9, 5)).astype(np.float32)
    real = run(model, x)[0]
    found = run(finalized(quantized(model_of(), [x])), x)[0]
    # Four roundings to 8 bits leave about 32 dB.
    assert ((real - found) ** 2).sum() < (real**2).sum() * 10**-2.8


def test_training_has_its_values_and_the_real_gradient() -> None:
    model = quantized(model_of())
    executor = Executor(model)
    (step,) = (step for step in executor.steps if step.layer.name == "norm")
    (module,) = executor.layer_norms()
    source = step.layer.sources[0].grid
    x = (torch.randint(source.qmin, source.qmax + 1, (7, 24)) * source.scale).requires_grad_()
    executor.eval()
    evaluated = module(x.detach())
    assert evaluated.dtype == torch.float64
    y = module.train()(x)
    torch.testing.assert_close(y, evaluated.float(), rtol=0, atol=0)
    expected = x.detach().clone().requires_grad_()
    gamma, beta = (p.detach().clone().requires_grad_() for p in (module.gamma, module.beta))
    real = F.layer_norm(expected, (24,), gamma, beta, 1e-5)
    weights = torch.randn(7, 24)
    for result in (y, real):
        (result * weights).sum().backward()
    for ours, theirs in ((x, expected), (module.gamma, gamma), (module.beta, beta)):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)  # sums of float32


@pytest.mark.parametrize("bias", [True, False])
def test_it_trains_and_evaluates_as_its_file(bias: bool) -> None:
    model = quantized(model_of(bias=bias))
    executor, x = Executor(model), np.random.default_rng(0).standard_normal((6, 9, 5)).astype(np.float32)
    node = next(node for node in model.graph if node.op_type == "LayerNormalization")
    for _ in range(2):
        assert_exact(model, x, executor)
        before = constant_input(node, 1)
        assert before is not None
        optimizer = torch.optim.SGD(executor.parameters(), 0.05)
        executor.train()(torch.from_numpy(x))[0].square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in executor.parameters() if p.requires_grad)
        optimizer.step()
        executor.eval()
        write_back(executor)
        after = constant_input(node, 1)
        assert after is not None
        assert (after != before).any()
    assert len(node.inputs) == 2 + bias


def test_a_twin_trains_the_same_parameters() -> None:
    executor = Executor(quantized(model_of())).train()
    (own,), (other,) = executor.layer_norms(), executor.twin().layer_norms()
    assert own.gamma is other.gamma
    assert own.beta is other.beta


def test_a_trainable_file_has_onnx_s_own_node() -> None:
    model = quantized(model_of())
    assert ops(model).count("LayerNormalization") == 1
    final = finalized(model)
    assert ops(final).count("IntegerLayerNormalization") == 1
    assert read_view(final).is_final
    RemoveQuantizers()(model)
    assert [op for op in ops(model) if op != "Identity"] == ["MatMul", "LayerNormalization", "MatMul", "MatMul"]


def test_behind_the_last_weights_it_stays_float() -> None:
    w = Weights(0)
    w.normal("w1", 5, 4)
    nodes = ["h = MatMul(x, w1)", "y = LayerNormalization(h, g)"]
    model = float_model("net", (5,), nodes, **w.constants, g=np.ones(4, np.float32))
    assert [layer.op_type for layer in split(model.graph).tail] == ["LayerNormalization"]


@pytest.mark.parametrize(
    ("x", "call", "words"),
    [
        ("N,4,5", "y = LayerNormalization<axis=1>(x, g)", "its axis is 1, expected the last one alone"),
        ("N,4,K", "y = LayerNormalization(x, g)", "the length of its rows is open"),
        ("N,9000", "y = LayerNormalization(x, wide)", "its rows have 9000 numbers, expected 2 to 8192"),
        ("N,5", "y = LayerNormalization(x, s)", "is not one number for each of a row"),
        ("N,5", "c = ReduceSum<keepdims=0>(x, z) y = LayerNormalization(x, c)", "its scale or bias is computed"),
        ("N,5", "h, m = LayerNormalization(x, g) y = Add(h, m)", "its mean or deviation is read as well"),
        ("N,4,5", "y = LayerNormalization<axis=2>(x, g)", ""),
        ("N,4,5", "y = LayerNormalization(x, g, g)", ""),
    ],
)
def test_refusals(x: str, call: str, words: str) -> None:
    constants = {
        "g": np.ones(5, np.float32), "wide": np.ones(9000, np.float32), "s": np.ones(1, np.float32), "z": np.array([0]),
    }  # fmt: skip
    used = {name: array for name, array in constants.items() if f", {name}" in call}
    model = build(f"(float[{x}] x) => (float[] y) {{ {call} }}", **used)
    node = next(node for node in model.graph if node.op_type == "LayerNormalization")
    refusal = op_of(node).refusal(node)
    assert words in str(refusal) if words else refusal is None


CHANGES = {
    "scale": (np.float32(0.5), "its steps are"),
    "zero_point": (np.int32(3), "its zero points are"),
    "fraction": (np.int32(128), "a fraction of 128"),
    "count": (np.int32(25), "it counts 25 numbers in a row, expected 24"),
    "epsilon": (np.int32(2**30), "its sum of squares, up to"),
    "reduction": (np.int32(0), "a reduction of 0"),
    "sign": (np.full(24, 2, np.int32), "its signs are no signs"),
    "bias": (np.full(24, INT32_MAX, np.int32), "its sums, up to 2147"),
    "low": (np.full(24, -INT32_MAX, np.int32), "its sums, up to"),
    "multiplier": (np.zeros(24, np.int32), "a multiplier is not positive"),
    "addend": (np.zeros(3, np.int32), "its constants have shapes"),
    "least": (np.int32(0), "its sums are cut to [0, "),
    "result_zero_point": (np.int32(1), "its zero points are"),
    "step": (np.float32(0.5), "its steps are"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_certificate_checks_what_the_file_says(name: str) -> None:
    array, words = CHANGES[name]
    spec = finalized_on_grids(model_of(), lambda: 2)
    node = next(node for node in spec.graph if node.op_type == "IntegerLayerNormalization")
    set_constant_input(node, 1 + IntegerLayerNormalization.parameter_names.index(name), array)
    problem = certify(read_view(spec)).problems[0]
    assert problem.startswith("IntegerLayerNormalization 'norm': ")
    assert words in problem


def test_another_body_is_refused() -> None:
    spec = finalized_on_grids(model_of(), lambda: 2)
    (function,) = spec.functions.values()
    next(node for node in function if node.op_type == "ReduceSum").op_type = "ReduceMax"
    with pytest.raises(ModelError, match=r"function 'qpipe.IntegerLayerNormalization': its body is none that qpipe"):
        read_view(spec)


def test_the_layer_of_a_view_is_requantized() -> None:
    spec = finalized_on_grids(model_of(), lambda: 2)
    (layer,) = (layer for layer in read_view(spec).layers if layer.name == "norm")
    assert isinstance(layer, RequantizedLayer)
    assert layer.op.sign([False]) is True
