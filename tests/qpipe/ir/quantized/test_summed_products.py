"""Products of two activations that only sums along axes read have 16 bits, and lose nothing before the sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qpipe.arith.spec import WIDE_BITS
from qpipe.ir.graph.layer_options import LayerOptions, LayerTable
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.ir.quantized.view import read_view
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from support.networks import Weights, float_model
from support.quantize import finalized, finalized_on_grids, quantized, to_integer, to_qoperator
from support.random_grids import check
from support.run import assert_exact, run

LONGEST = 256
"""Codes of 16 bits that float32 sums exactly."""


def scalar(w: Weights, *, reduce: str = "ReduceSum", count: int = 6, rectifies: bool = False) -> list[str]:
    """`sum (a x) (b x)` along `count` numbers of each of 4 rows, and a layer of weights behind it.

    A mean is along the 4 rows: one along the last axis is an average pool.
    """
    w.normal("a", 5, count)
    w.normal("b", 5, count)
    axis = 2 if reduce == "ReduceSum" else 1
    w.normal("o", 4 if axis == 2 else count, 3)
    w.constants["axis"] = np.array([axis])
    nodes = ["s = MatMul(x, a)", "t = MatMul(x, b)"]
    nodes += ["u = Relu(s)", "v = Relu(t)"] if rectifies else ["u = Identity(s)", "v = Identity(t)"]
    return [*nodes, "[p] p = Mul(u, v)", f"r = {reduce}<keepdims = 0>(p, axis)", "y = MatMul(r, o)"]


def model_of(**options: Any) -> ir.Model:
    w = Weights(0)
    nodes = scalar(w, **options)
    return float_model("net", (4, 5), nodes, **w.constants)


def widths(nodes: list[str], w: Weights, **options: Any) -> dict[str, int]:
    plan = plan_quantization(float_model("net", (4, 5), nodes, **w.constants).graph, **options)
    return {str(value.name): planned.bits for value, planned in plan.quantizers.items()}


@settings(max_examples=20)
@given(st.data())
def test_every_integer(data: st.DataObject) -> None:
    w = Weights(data.draw(st.integers(0, 1000)))
    reduce, rectifies = data.draw(st.sampled_from(["ReduceSum", "ReduceMean"])), data.draw(st.booleans())
    nodes = scalar(w, reduce=reduce, count=data.draw(st.integers(2, 12)), rectifies=rectifies)
    check(data.draw, nodes, (4, 5), w)


@pytest.mark.parametrize("lower", [to_qoperator, to_integer])
@pytest.mark.parametrize("reduce", ["ReduceSum", "ReduceMean"])
def test_the_gate(lower: Any, reduce: str) -> None:
    spec = finalized_on_grids(model_of(reduce=reduce, count=LONGEST), lambda: 2)
    assert certify(read_view(spec)).problems == []
    (product,) = (layer for layer in read_view(spec).layers if layer.name == "p")
    assert product.quantizer is not None
    assert product.quantizer.grid.bits == WIDE_BITS
    assert run_gate(spec, lower(spec)).integers > 1_000


@pytest.mark.parametrize("rectifies", [True, False])
def test_a_product_is_as_it_is(rectifies: bool) -> None:
    """All its bits, in the product of both steps, where its range lets it."""
    spec = finalized_on_grids(model_of(rectifies=rectifies), lambda: 0, negative=not rectifies)
    (product,) = (layer for layer in read_view(spec).layers if layer.name == "p")
    assert product.quantizer is not None
    assert product.quantizer.grid.exponent == sum(quantizer.grid.exponent for quantizer in product.sources)


def test_only_what_sums_read() -> None:
    w = Weights(0)
    assert widths(scalar(w), w)["p"] == WIDE_BITS
    w.normal("q", 6, 3)
    both = [
        *scalar(w)[:-1],
        "k = MatMul(p, q)",
        "l = ReduceSum<keepdims = 0>(k, axis)",
        "m = Add(r, l)",
        "y = MatMul(m, o)",
    ]
    assert widths(both, w)["p"] == 8


def test_through_what_moves_numbers() -> None:
    w = Weights(0)
    nodes = scalar(w)
    nodes[5:6] = ["z = Transpose<perm = [0, 2, 1]>(p)", "r = ReduceSum<keepdims = 0>(z, one)"]
    w.constants["one"] = np.array([1])
    assert widths(nodes, w)["p"] == WIDE_BITS


@pytest.mark.parametrize(("count", "bits"), [(LONGEST, WIDE_BITS), (LONGEST + 1, 8)])
def test_as_many_as_float32_sums(count: int, bits: int) -> None:
    w = Weights(0)
    assert widths(scalar(w, count=count), w)["p"] == bits


def test_a_constant_factor_stays_narrow() -> None:
    w = Weights(0)
    nodes = scalar(w)
    w.constants["v"] = w.rng.standard_normal((1, 4, 6)).astype(np.float32)
    assert widths([node for node in nodes if not node.startswith(("v =", "t ="))], w)["p"] == 8


def test_a_width_that_is_said_holds() -> None:
    w = Weights(0)
    assert widths(scalar(w), w, layers=LayerTable((LayerOptions("p", activation_bits=8),)))["p"] == 8
    assert widths(scalar(w), w, skip_bits=8)["p"] == 8


def test_sums_keep_what_products_of_8_bits_lose() -> None:
    """Products of either sign nearly cancel."""
    x = np.random.default_rng(0).standard_normal((64, 4, 5)).astype(np.float32)
    real, noise = run(model_of(count=64), x)[0], []
    for options in ({}, {"skip_bits": 8}):
        model = quantized(model_of(count=64), [x], **options)
        noise.append(((real - run(finalized(model), x)[0]) ** 2).sum() / (real**2).sum())
    assert 2 * noise[0] < noise[1]


def test_it_trains_and_evaluates_as_its_file() -> None:
    model = quantized(model_of())
    executor, x = Executor(model), np.random.default_rng(0).standard_normal((6, 4, 5)).astype(np.float32)
    assert_exact(model, x, executor)
    executor.train()(torch.from_numpy(x))[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in executor.parameters() if p.requires_grad)
