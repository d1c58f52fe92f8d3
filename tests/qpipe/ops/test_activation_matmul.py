"""MatMul of two activations: exact integers in every form, torch semantics, what is refused, what it costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qpipe.arith.spec import QuantSpec
from qpipe.errors import LoweringError
from qpipe.ir.cost.macs import count_macs
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.view import RequantizedLayer, read_view
from qpipe.ops import Role, op_of
from qpipe.runtime.gate import check_fused, run_gate
from qpipe.train.executor import Executor
from support.networks import Weights, build, float_model
from support.quantize import finalized, finalized_on_grids, quantized, to_qoperator
from support.random_grids import ACTIVATIONS, check
from support.run import assert_exact

CODES = 255


def attention(w: Weights, tokens: int, heads: int, width: int, activation: str = "Identity({})") -> list[str]:
    """Scores of queries and transposed keys, an activation, the weighted sum of values, `[N, tokens, heads width]`."""
    size = heads * width
    for name in "qkvo":
        w.normal(f"w{name}", size, size)
    w.constants |= {"apart": np.array([0, tokens, heads, width]), "together": np.array([0, tokens, size])}
    nodes = []
    for name in "qkv":
        order = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes += [f"{name} = MatMul(x, w{name})", f"{name}r = Reshape({name}, apart)"]
        nodes += [f"{name}t = Transpose<perm={order}>({name}r)"]
    nodes += ["[scores] s = MatMul(qt, kt)", f"p = {activation.format('s')}", "[mixed] o = MatMul(p, vt)"]
    nodes += ["ot = Transpose<perm=[0, 2, 1, 3]>(o)", "ob = Reshape(ot, together)", "y = MatMul(ob, wo)"]
    return nodes


@settings(max_examples=20)
@given(st.data())
def test_every_integer_of_attention(data: st.DataObject) -> None:
    tokens, heads, width = (data.draw(st.integers(low, high)) for low, high in ((1, 20), (1, 3), (1, 9)))
    w = Weights(data.draw(st.integers(0, 1000)))
    nodes = attention(w, tokens, heads, width, data.draw(ACTIVATIONS))
    check(data.draw, nodes, (tokens, heads * width), w)


def test_onnxruntime_s_operators() -> None:
    """In three dimensions, the batch of one operand broadcast; the gate compares layer by layer, extremes too."""
    w = Weights(0)
    w.normal("wa", 6, 5)
    w.normal("wy", 7, 4)
    nodes = ["a = MatMul(x, wa)", "t = Transpose<perm=[0, 1, 3, 2]>(a)", "r = Relu(t)"]
    nodes += ["first = Slice(r, zero, one, axis)", "[product] p = MatMul(a, first)", "y = MatMul(p, wy)"]
    w.constants |= {"zero": np.array([0]), "one": np.array([1]), "axis": np.array([1])}
    spec = finalized_on_grids(float_model("net", (3, 7, 6), nodes, **w.constants), lambda: 1)
    exported = to_qoperator(spec)
    assert [node.op_type for node in exported.graph].count("QLinearMatMul") == 2
    report = run_gate(spec, exported)
    assert report.integers > 10_000


def test_training_and_evaluation() -> None:
    """Gradients reach every weight through both operands, and evaluation gives the file's integers before and after."""
    w = Weights(3)
    model = quantized(float_model("net", (9, 12), attention(w, 9, 3, 4), **w.constants))
    x = np.random.default_rng(0).standard_normal((5, 9, 12)).astype(np.float32)
    executor = Executor(model)
    assert_exact(model, x, executor)
    executor.train()(torch.from_numpy(x))[0].square().mean().backward()
    for parameter in executor.parameters():
        assert not parameter.requires_grad or (parameter.grad is not None and parameter.grad.abs().sum() > 0)


def test_sums_beyond_float32_are_exact_in_evaluation() -> None:
    """300 products of the largest codes: 19,507,500, plus one, which float32 does not hold."""
    node = build("(float[300] x, float[300,1] b) => (float[] y) { y = MatMul(x, b) }").graph.node(0)
    a, b = torch.full((1, 301), float(CODES)), torch.full((301, 1), float(CODES))
    a[0, 0], b[0, 0] = 1, 1
    assert op_of(node).torch(node)(a, b).double().item() == 300 * CODES**2 + 1


def test_what_it_is_and_what_it_costs() -> None:
    model = build("(float[N,4,5] x, float[N,5,6] b) => (float[N,4,6] y) { y = MatMul(x, b) }")
    node = model.graph.node(0)
    op = op_of(node)
    assert op.role is Role.JOIN
    assert op.refusal(node) is None
    assert op.operands(node) == tuple(node.inputs)
    assert count_macs(node) == 4 * 6 * 5
    assert [op.sign(signs) for signs in ([False, False], [False, True], [None, False])] == [False, True, None]


@pytest.mark.parametrize(
    ("x", "b", "words"),
    [
        ("N,4,K", "N,K,6", "how many products it sums is open"),
        ("4", "4,6", "one of its operands is a vector"),
        ("1,40000", "40000,1", "beyond int32"),
    ],
)
def test_refusals(x: str, b: str, words: str) -> None:
    node = build(f"(float[{x}] x, float[{b}] b) => (float[] y) {{ y = MatMul(x, b) }}").graph.node(0)
    assert words in str(op_of(node).refusal(node))


def test_one_size_is_enough() -> None:
    node = build("(float[N,4,K] x, float[N,7,6] b) => (float[] y) { y = MatMul(x, b) }").graph.node(0)
    assert op_of(node).refusal(node) is None


def layer_of(spec: ir.Model) -> RequantizedLayer:
    (layer,) = (layer for layer in read_view(spec).layers if layer.name == "scores")
    assert isinstance(layer, RequantizedLayer)
    return layer


def on_grid(quantizer: ActivationQuantizer, exponent: int) -> ActivationQuantizer:
    return replace(quantizer, grid=QuantSpec.unsigned(8, exponent))


@pytest.mark.parametrize(("shift", "is_proven"), [(16, True), (17, False)])
def test_the_certificate_knows_the_largest_sum(shift: int, is_proven: bool) -> None:
    """300 products of 8-bit codes are over 2**24: then onnxruntime's float32 is exact up to a shift of 16 alone."""
    w = Weights(0)
    nodes = attention(w, 4, 1, 300)
    spec = finalized_on_grids(float_model("net", (4, 300), nodes, **w.constants), lambda: 1)
    layer = layer_of(spec)
    sources = tuple(on_grid(q, -8) for q in layer.sources)
    (row,) = layer.op.prove(
        replace(layer, sources=sources, quantizer=on_grid(layer.quantizer, shift - 16)), check_pairs=True
    )
    assert row.largest_accumulator == 300 * CODES**2
    assert row.ok == is_proven
    assert certify(read_view(spec)).problems == []


def test_one_that_is_not_fused_is_named() -> None:
    """As onnxruntime leaves it where its float result is looked at."""
    w = Weights(0)
    spec = finalized_on_grids(float_model("net", (4, 6), attention(w, 4, 1, 6), **w.constants), lambda: 1)
    view = read_view(spec)
    check_fused(spec, view)
    spec.graph.outputs.append(layer_of(spec).node.outputs[0])
    with pytest.raises(LoweringError, match="layer 'scores': onnxruntime does not fuse it"):
        check_fused(spec, view)


@pytest.mark.parametrize(("zeros", "width"), [("qkv", 4), ("q", 4), ("q", 200)])
def test_operands_that_are_zero_in_the_calibration_data(zeros: str, width: int) -> None:
    """As of attention that training has pulled to nothing: there is no range to go by, and the file is exact."""
    w = Weights(0)
    nodes = attention(w, 4, 2, width)
    for name in zeros:
        w.constants[f"w{name}"] *= np.float32(1e-30)
    spec = finalized(quantized(float_model("net", (4, 2 * width), nodes, **w.constants)))
    assert certify(read_view(spec)).problems == []
    assert run_gate(spec, to_qoperator(spec)).integers > 1_000
