"""Residual streams that normalizations read have 16 bits: every integer of every form, and what reads them narrower."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.normalize import normalize
from qpipe.arith.spec import WIDE_BITS, QuantSpec
from qpipe.errors import ModelError
from qpipe.ir.graph.layer_options import LayerOptions, LayerTable
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.ir.quantized.view import read_view
from qpipe.nodes import set_constant_input
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from support.networks import Weights, float_model
from support.quantize import finalized, finalized_on_grids, quantized, to_integer, to_qoperator
from support.random_grids import check
from support.run import assert_exact, run

SIZE = 6


def block(w: Weights, name: str, x: str, y: str) -> list[str]:
    """`y = x + f(LayerNormalization(x))`."""
    w.constants |= {f"{name}g": w.rng.uniform(0.5, 2, SIZE).astype(np.float32)}
    w.normal(f"{name}b", SIZE)
    w.normal(f"{name}u", SIZE, 2 * SIZE)
    w.normal(f"{name}d", 2 * SIZE, SIZE)
    return [
        f"{name}n = LayerNormalization<axis = -1>({x}, {name}g, {name}b)",
        f"{name}1 = MatMul({name}n, {name}u)",
        f"{name}2 = Relu({name}1)",
        f"{name}3 = MatMul({name}2, {name}d)",
        f"[{y}] {y} = Add({x}, {name}3)",
    ]


def stream(w: Weights, between: str = "r = Identity(p)", head: str = "MatMul({}, w)") -> list[str]:
    """Two blocks on a stream that begins with a sum."""
    w.normal("v", 5, SIZE)
    w.normal("e", 1, 4, SIZE)
    w.normal("w", SIZE, 3)
    nodes = ["s = MatMul(x, v)", "[p] p = Add(s, e)", between, *block(w, "a", "r", "q"), *block(w, "c", "q", "t")]
    return [*nodes, f"y = {head.format('t')}"]


def model_of(**options: Any) -> ir.Model:
    w = Weights(0)
    return float_model("net", (4, 5), stream(w, **options), **w.constants)


def widths(model: ir.Model) -> dict[str, int]:
    plan = plan_quantization(model.graph)
    return {str(value.name): planned.bits for value, planned in plan.quantizers.items()}


@settings(max_examples=15)
@given(st.data())
def test_every_integer(data: st.DataObject) -> None:
    w = Weights(data.draw(st.integers(0, 1000)))
    between = data.draw(
        st.sampled_from(["r = Identity(p)", "r = Slice(p, one, four, one)", "r = Gather<axis = 1>(p, one)"])
    )
    w.constants |= {"one": np.array([1]), "four": np.array([4])}
    check(data.draw, stream(w, between), (4, 5), w)


@pytest.mark.parametrize("lower", [to_qoperator, to_integer])
def test_the_gate(lower: Any) -> None:
    spec = finalized_on_grids(model_of(), lambda: 2)
    assert certify(read_view(spec)).problems == []
    assert run_gate(spec, lower(spec)).integers > 10_000


def test_sums_along_the_stream_are_wide() -> None:
    found = widths(model_of())
    assert {name for name, bits in found.items() if bits == WIDE_BITS} == {"p", "q"}
    # What no normalization reads stays narrow.
    assert found["t"] == 8


def test_through_what_moves_numbers() -> None:
    w = Weights(0)
    w.constants |= {"one": np.array([1]), "four": np.array([4])}
    nodes = stream(w, "r = Slice(p, one, four, one)")
    spec = finalized_on_grids(float_model("net", (4, 5), nodes, **w.constants), lambda: 2)
    moved = [layer.quantizer for layer in read_view(spec).layers if layer.op_type == "Slice"]
    assert [quantizer.grid.bits for quantizer in moved if quantizer] == [WIDE_BITS]


def test_a_width_that_is_said_holds() -> None:
    model = model_of()
    normalize(model)
    assert not plan_quantization(model.graph, skip_bits=8).wide
    table = LayerTable((LayerOptions("q", activation_bits=8),))
    assert {str(value.name) for value in plan_quantization(model.graph, layers=table).wide} == {"p"}


def test_what_takes_no_such_codes_reads_narrower_ones() -> None:
    """A layer of weights and a Softmax on the stream; each has a quantizer of its own."""
    w = Weights(0)
    w.normal("o", SIZE, 3)
    nodes = [*stream(w)[:-1], "z = Softmax(q)", "m = MatMul(z, w)", "k = MatMul(q, o)", "j = MatMul(t, w)"]
    nodes += ["i = Add(m, k)", "y = Add(i, j)"]
    model = float_model("net", (4, 5), nodes, **w.constants)
    plan = plan_quantization(model.graph)
    assert {str(value.name): planned.bits for value, planned in plan.narrowed.items()} == {"q": 8}
    spec = finalized_on_grids(model, lambda: 2)
    readers = {layer.name: layer.sources[0].grid.bits for layer in read_view(spec).layers if "Softmax" in layer.op_type}
    assert list(readers.values()) == [8]
    assert run_gate(spec, to_integer(spec)).integers > 10_000


def test_small_channels_survive_beside_large_ones() -> None:
    """One channel 10 times as large as the others, which each sum rounds again."""
    w = Weights(0)
    nodes = [*stream(w)[:-1], "n = LayerNormalization(t, ag, ab)", "y = MatMul(n, w)"]
    w.constants["v"][:, 0] *= 10
    for name in ("ag", "cg"):
        w.constants[name][0] = 0
    x = np.random.default_rng(0).standard_normal((64, 4, 5)).astype(np.float32)
    real = run(float_model("net", (4, 5), nodes, **w.constants), x)[0]
    noise = []
    for options in ({}, {"skip_bits": 8}):
        model = quantized(float_model("net", (4, 5), nodes, **w.constants), [x], **options)
        noise.append(((real - run(finalized(model), x)[0]) ** 2).sum() / (real**2).sum())
    # Measured: 17.1 dB of signal to noise, and 13.5.
    assert 2 * noise[0] < noise[1]


def test_it_trains_and_evaluates_as_its_file() -> None:
    model = quantized(model_of())
    executor, x = Executor(model), np.random.default_rng(0).standard_normal((6, 4, 5)).astype(np.float32)
    assert_exact(model, x, executor)
    executor.train()(torch.from_numpy(x))[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in executor.parameters() if p.requires_grad)


def test_sums_of_far_grids_are_refused() -> None:
    """float32 holds 24 bits, of which the stream has 16."""
    spec = finalized_on_grids(model_of(), lambda: 2)
    (add,) = (layer for layer in read_view(spec).layers if layer.name == "q")
    wide, narrow = QuantSpec.signed(WIDE_BITS, 0), QuantSpec.signed(8, -8)
    assert add.op.distance(add.node, [wide, narrow]) is None
    assert "of [16, 8] bits, too far apart" in str(add.op.distance(add.node, [wide, replace(narrow, exponent=-9)]))
    # What is that much finer gets coarser steps.
    assert add.op.near(add.node, [wide, replace(narrow, exponent=-20)]) == [wide, narrow]
    # The other way the stream's steps are the finer ones, and 8 bits leave room.
    assert add.op.distance(add.node, [wide, replace(narrow, exponent=15)]) is None
    assert add.op.distance(add.node, [wide, replace(narrow, exponent=18)]) is not None


def test_codes_of_16_bits_elsewhere_are_refused() -> None:
    """Such as another tool writes before and behind weights."""
    for name in ("a2", "an"):
        model = quantized(model_of())
        node = next(n for n in model.graph if n.op_type == "QuantizeLinear" and str(n.inputs[0].name) == name)
        set_constant_input(node, 2, np.uint16(32768))
        dequantize = next(n for n in model.graph if f"{name}_dequantized" == n.outputs[0].name)
        set_constant_input(dequantize, 2, np.uint16(32768))
        dequantize.replace_input_with(0, node.outputs[0])
        with pytest.raises(ModelError, match=f"tensor '{name}' has codes of 16 bits, expected 8"):
            read_view(model)
