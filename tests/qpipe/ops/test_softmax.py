"""Softmax in integers: its table, every integer in every form, training, what is refused, what a file may not say."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.shipping.finalize import Finalize
from passes.shipping.remove_quantizers import RemoveQuantizers
from qpipe.arith.softmax import LONGEST_ROW, SUM_BITS, exponentials, softmax_parts
from qpipe.arith.spec import QuantSpec
from qpipe.errors import LoweringError, ModelError
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.parts import split
from qpipe.ir.quantized.view import RequantizedLayer, read_view
from qpipe.nodes import set_constant_input
from qpipe.ops import op_of
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from support.networks import Weights, build, float_model, ops
from support.quantize import finalized, finalized_on_grids, quantized, to_integer, to_qoperator
from support.random_grids import ACTIVATIONS, check
from support.run import assert_exact

INT32_MAX = 2**31 - 1


def around(w: Weights, tokens: int, activation: str = "Identity({})") -> list[str]:
    """Softmax between two MatMuls, of rows of so many numbers."""
    w.normal("w1", 5, tokens)
    w.normal("w2", tokens, 4)
    w.normal("w3", 4, 3)
    nodes = ["h = MatMul(x, w1)", f"a = {activation.format('h')}", "[soft] s = Softmax(a)", "m = MatMul(s, w2)"]
    return [*nodes, "y = MatMul(m, w3)"]


@settings(max_examples=20)
@given(st.data())
def test_every_integer(data: st.DataObject) -> None:
    tokens, w = data.draw(st.integers(1, 70)), Weights(data.draw(st.integers(0, 1000)))
    check(data.draw, around(w, tokens, data.draw(ACTIVATIONS)), (3, 5), w)


@pytest.mark.parametrize("lower", [to_qoperator, to_integer])
def test_the_gate(lower: object) -> None:
    """Layer by layer, on extremes; in both exports there is no float between."""
    w = Weights(0)
    spec = finalized_on_grids(float_model("net", (9, 5), around(w, 33), **w.constants), lambda: 2)
    assert certify(read_view(spec)).problems == []
    lowered = lower(spec)  # type: ignore[operator]
    assert run_gate(spec, lowered).integers > 10_000
    floats = {value.name for node in lowered.graph for value in node.outputs if value.dtype == ir.DataType.FLOAT}
    assert floats == {"y"}


GRIDS = st.builds(QuantSpec.for_range, st.integers(2, 8), st.integers(-4, 6), signed=st.booleans())


@settings(max_examples=60)
@given(source=GRIDS, exponent=st.integers(-22, 0), count=st.integers(1, LONGEST_ROW), seed=st.integers(0, 99))
def test_the_table_fits_int32_and_is_near(source: QuantSpec, exponent: int, count: int, seed: int) -> None:
    # A largest quotient of a row is not below one of so many.
    exponent = max(exponent, -8 - (count - 1).bit_length())
    table = exponentials(source, QuantSpec.unsigned(8, exponent), count)
    assert table[0] == table.max() >= 2**8
    assert table[0] * count <= 2**SUM_BITS
    assert table[0] * 2**-exponent <= 2**SUM_BITS
    codes = np.random.default_rng(seed).integers(source.qmin, source.qmax + 1, (3, min(count, 50)))
    numerators, total = softmax_parts(codes, table)
    expected = torch.from_numpy(codes * source.scale).softmax(-1).numpy()
    assert (total % 2 == 1).all()
    # Each entry errs by half of its last place, and so do all others of the sum, which 1 is added to.
    assert np.abs(numerators / total - expected).max() <= (3 + codes.shape[1]) / 2 / table[0] + 1e-12


def test_training_has_its_values_and_softmax_s_gradient() -> None:
    w = Weights(1)
    model = quantized(float_model("net", (9, 5), around(w, 12), **w.constants))
    (layer,) = (layer for layer in read_view(model).layers if layer.name == "soft")
    assert isinstance(layer, RequantizedLayer)
    source = layer.sources[0].grid
    x = (torch.randint(source.qmin, source.qmax + 1, (4, 12)) * source.scale).requires_grad_()
    y = layer.op.simulated(layer)(x)
    expected = x.detach().clone().requires_grad_()
    real = expected.softmax(-1)
    # Of a table of 2**22 units.
    torch.testing.assert_close(y, real, rtol=0, atol=12 / 2**22)
    weights = torch.randn(4, 12)
    (y * weights).sum().backward()
    (real * weights).sum().backward()
    torch.testing.assert_close(x.grad, expected.grad)
    evaluated = layer.op.simulated(layer)(x.detach())
    assert evaluated.dtype == torch.float64
    torch.testing.assert_close(y, evaluated.float(), rtol=0, atol=0)


def test_it_trains_and_evaluates_as_its_file() -> None:
    w = Weights(2)
    model = quantized(float_model("net", (9, 5), around(w, 12), **w.constants))
    executor, x = Executor(model), np.random.default_rng(0).standard_normal((6, 9, 5)).astype(np.float32)
    assert_exact(model, x, executor)
    executor.train()(torch.from_numpy(x))[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in executor.parameters() if p.requires_grad)


def test_a_trainable_file_has_onnx_s_own_node() -> None:
    w = Weights(2)
    model = quantized(float_model("net", (9, 5), around(w, 12), **w.constants))
    assert ops(model).count("Softmax") == 1
    assert not read_view(model).is_final
    assert not model.functions
    final = finalized(model)
    assert ops(final).count("IntegerSoftmax") == 1
    assert read_view(final).is_final
    assert not Finalize()(final).modified
    RemoveQuantizers()(model)
    assert ops(model) == ["MatMul", "Softmax", "MatMul", "MatMul"]


def test_behind_the_last_weights_it_stays_float() -> None:
    w = Weights(0)
    w.normal("w1", 5, 4)
    model = float_model("net", (5,), ["h = MatMul(x, w1)", "y = Softmax(h)"], **w.constants)
    assert [layer.op_type for layer in split(model.graph).tail] == ["Softmax"]


@pytest.mark.parametrize(
    ("x", "axis", "words"),
    [
        ("N,4,5", 1, "its axis is 1, expected the last one"),
        ("N,4,K", -1, "the length of its rows is open"),
        ("N,20000", 1, "its rows have 20000 numbers, expected at most 16384"),
        ("N,4,5", 2, ""),
    ],
)
def test_refusals(x: str, axis: int, words: str) -> None:
    node = build(f"(float[{x}] x) => (float[] y) {{ y = Softmax<axis={axis}>(x) }}").graph.node(0)
    refusal = op_of(node).refusal(node)
    assert words in str(refusal) if words else refusal is None


@pytest.mark.parametrize(
    ("index", "array", "words"),
    [
        (1, np.float32(0.25), "its steps are 0.25 and "),
        (2, np.full(256, 2**27, np.int32), "whose sums of 33 leave int32"),
        (2, np.r_[0, np.full(255, 1)].astype(np.int32), "a table from 0 down to 0"),
        (3, np.int32(2**12), "its steps are "),
        (4, np.float32(2**-12), "its steps are "),
    ],
)
def test_the_certificate_checks_what_the_file_says(index: int, array: np.ndarray, words: str) -> None:
    w = Weights(0)
    spec = finalized_on_grids(float_model("net", (9, 5), around(w, 33), **w.constants), lambda: 1)
    node = next(node for node in spec.graph if node.op_type == "IntegerSoftmax")
    set_constant_input(node, index, array)
    problem = certify(read_view(spec)).problems[0]
    assert problem.startswith("IntegerSoftmax 'soft': ")
    assert words in problem


def test_another_body_is_refused() -> None:
    w = Weights(0)
    spec = finalized_on_grids(float_model("net", (9, 5), around(w, 33), **w.constants), lambda: 1)
    (function,) = spec.functions.values()
    for node in function:
        if node.op_type == "ReduceMax":
            node.op_type = "ReduceMin"
    with pytest.raises(ModelError, match=r"function 'qpipe.IntegerSoftmax': its body is none that qpipe writes"):
        read_view(spec)


def test_one_that_is_not_finalized_is_not_lowered() -> None:
    w = Weights(2)
    model = quantized(float_model("net", (9, 5), around(w, 12), **w.constants))
    (layer,) = (layer for layer in read_view(model).layers if layer.name == "soft")
    assert isinstance(layer, RequantizedLayer)
    for call in (layer.op.exact, layer.op.lower_qoperator, layer.op.lower_integer):
        with pytest.raises(LoweringError, match="Softmax 'soft': computes floats between quantizers"):
            call(layer, None)  # type: ignore[operator]


def test_fewer_bits() -> None:
    """The result's own grid is narrower, and the row's maximum saturates on it."""
    w = Weights(0)
    spec = finalized_on_grids(float_model("net", (9, 5), around(w, 3), **w.constants), lambda: -1, bits=3)
    (layer,) = (layer for layer in read_view(spec).layers if layer.name == "soft")
    assert isinstance(layer, RequantizedLayer)
    assert layer.quantizer.rounded_to.bits == 3
    assert run_gate(spec, to_qoperator(spec)).integers > 1_000
