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
    QUOTIENT_BITS,
    fit_rows,
    largest_quotient,
    quotients,
    row_scale,
    scale_problem,
)
from qpipe.arith.rows import ROOT_BITS
from qpipe.arith.spec import WIDE_BITS, QuantSpec
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
GRIDS = st.builds(
    QuantSpec.for_range, st.sampled_from([*range(2, 9), WIDE_BITS]), st.integers(-12, 12), signed=st.booleans()
)


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
    scale = row_scale(source, count, epsilon)
    assert scale_problem(source, count, scale) is None
    t = quotients(stored, scale)
    assert np.abs(t).max() <= largest_quotient(scale)
    x = torch.from_numpy((stored - source.zero_point) * source.scale)
    expected = F.layer_norm(x, (count,), eps=epsilon).numpy() / np.sqrt(count)
    found = np.ldexp(t.astype(float), fit_rows(np.ones(1), np.zeros(1), scale, source)[1])
    # In steps of what a row is divided by: the mean is rounded to half of one, the root to one, and where a row is
    # divided each of its numbers to a half, which moves the root by the root of their count at the very most.
    values = (stored - stored.mean(-1, keepdims=True)) * float(scale.fraction)
    limits = np.ptp(stored, axis=-1, keepdims=True) * int(scale.fraction) / int(scale.limit)
    divisor = 2.0 ** (np.ceil(np.log2(limits.clip(1))) + scale.halvings)
    root = np.sqrt(
        (values**2).sum(-1, keepdims=True) / divisor**2 + float(scale.epsilon) / (divisor / 2**scale.halvings) ** 2
    )
    rounded = np.where(divisor > 1, np.sqrt(count) / 2, 0)
    bound = (2 + rounded) / np.floor(root).clip(1) + 2 / 2**QUOTIENT_BITS
    assert (np.abs(found - expected) <= bound).all()


def test_small_rows_keep_their_digits_beside_large_ones() -> None:
    """Rows of one tensor that differ by 1000 times, as tokens of trained transformers do."""
    rng, source = np.random.default_rng(0), QuantSpec.signed(WIDE_BITS, -12)
    x = np.round(rng.standard_normal((2, 256)) * [[7000.0], [7.0]]).clip(source.qmin, source.qmax).astype(np.int64)
    scale = row_scale(source, 256, 1e-9)
    t = quotients(x + source.zero_point, scale) / 2**QUOTIENT_BITS
    real = F.layer_norm(torch.from_numpy(x * source.scale), (256,), eps=1e-9).numpy() / 16
    # A quotient is rounded to 2**-13, and the mean to half a step, of 7.
    assert (np.abs(t - real).max(axis=1) <= np.array([1.1 * 2**-13, 0.5 / 7 / 16])).all()


@pytest.mark.parametrize("source", [QuantSpec.unsigned(8, -4), QuantSpec.signed(8, -4), QuantSpec.signed(16, -9)])
@pytest.mark.parametrize("count", [2, 3, 64, 1000, LONGEST_ROW])
def test_sums_of_squares_are_within_bounds_of_any_grid(source: QuantSpec, count: int) -> None:
    """Half at either end, the row of the largest sum; and rows just below and above the limit of a span."""
    scale = row_scale(source, count, 1e-5)
    codes = np.where(np.arange(count) % 2, source.stored_min, source.stored_max)
    limit = int(scale.limit) // int(scale.fraction)
    spans = [source.stored_max, *(min(limit * 2**j + more, source.stored_max) for j in range(9) for more in (0, 1))]
    rows = np.stack([codes, *(np.where(np.arange(count) % 2, 0, span) for span in spans)])
    values = rows * scale.fraction - np.floor(rows.mean(-1, keepdims=True) * scale.fraction + 0.5).astype(np.int64)
    limits = -(-np.ptp(rows, axis=-1, keepdims=True) * scale.fraction // scale.limit)
    divisor = 2 ** np.ceil(np.log2(limits.clip(1)))
    assert divisor.max() <= 2**8
    total = (np.floor(values / divisor + 0.5) ** 2).sum(-1)
    assert total.max() + int(scale.epsilon) <= 2**ROOT_BITS
    assert (np.abs(quotients(rows, scale)) <= largest_quotient(scale)).all()


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
    "fraction": (np.int32(512), "a fraction of 512"),
    "count": (np.int32(25), "it counts 25 numbers in a row, expected 24"),
    "epsilon": (np.int32(2**30), "an epsilon of 1073741824"),
    "divisor": (np.int32(0), "a divisor of 0"),
    "limit": (np.int32(2**20), "a row's limit is 1048576"),
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
