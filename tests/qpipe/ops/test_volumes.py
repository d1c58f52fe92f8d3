"""Rows and volumes: networks of one and of three spatial dimensions through every export, and training."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qpipe.ir.quantized.view import read_view
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from support.networks import Weights, float_model
from support.quantize import finalized, finalized_on_grids, quantized, to_integer, to_qoperator
from support.random_grids import check
from support.run import assert_exact

FACTORS = {"twice": np.array([1, 1, 2], np.float32), "pads": np.array([0, 0, 2, 0, 0, 1])}


@settings(max_examples=20)
@given(st.data())
def test_convolutions_and_pools_of_volumes(data: st.DataObject) -> None:
    """All integers of random windows, groups included."""
    draw = data.draw
    w = Weights(draw(st.integers(0, 1000)))
    groups = draw(st.sampled_from([1, 2, 6]))
    kernel, strides, dilations = (draw(st.tuples(*[st.integers(1, most)] * 3)) for most in (3, 2, 2))
    w.normal("w1", 6, 3, 1, 1, 1)
    w.normal("w2", 6, 6 // groups, *kernel)
    w.normal("w3", 5, 6, 1, 1, 1)
    pads = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    text = f"kernel_shape={list(kernel)}, strides={list(strides)}, pads={pads}"
    pool = draw(st.sampled_from(["MaxPool", "AveragePool", "GlobalAveragePool"]))
    window = "<kernel_shape=[2, 1, 2], strides=[1, 2, 2]>" if pool != "GlobalAveragePool" else ""
    nodes = [
        "c = Conv(x, w1)", "r = Relu(c)", f"d = Conv<{text}, dilations={list(dilations)}, group={groups}>(r, w2)",
        "e = Relu(d)", f"p = {pool}{window}(e)", "y = Conv(p, w3)",
    ]  # fmt: skip
    check(draw, nodes, (3, 7, 7, 7), w, weights=draw(st.sampled_from(["int8", "uint8"])))
    spec = finalized_on_grids(float_model("net", (3, 7, 7, 7), nodes, **w.constants), lambda: 1)
    run_gate(spec, to_qoperator(spec))


def rows(w: Weights) -> tuple[tuple[int, ...], list[str]]:
    """A waveform: strided, dilated and depthwise convolutions, a residual, a gate, resizes, a transposed one."""
    for name, shape in {"w1": (8, 2, 9), "dw": (8, 1, 5), "w3": (8, 8, 1), "wt": (8, 6, 4), "w4": (6, 3)}.items():
        w.normal(name, *shape)
    w.batch_norm("n", 8)
    w.constants |= FACTORS
    return (2, 64), [
        "a = Conv<strides=[2], pads=[4, 4]>(x, w1)", "b = BatchNormalization(a, n_g, n_b, n_m, n_v)", "r = Relu(b)",
        "d = Conv<group=8, dilations=[2], pads=[4, 4]>(r, dw)", "e = Relu(d)", "f = Conv(e, w3)", "g = Add(f, r)",
        "h = Relu(g)", "m = MaxPool<kernel_shape=[3], strides=[2], pads=[1, 1]>(h)", "q = GlobalAveragePool(m)",
        "o = Conv(q, w3)", "s = Sigmoid(o)", "t = Mul(m, s)", "u = Resize(t, , twice)",
        'v = Resize<mode="linear">(u, , twice)', 'p = Pad<mode="reflect">(v, pads)',
        "k = ConvTranspose<strides=[2], pads=[1, 1]>(p, wt)", "l = Relu(k)", "z = GlobalAveragePool(l)",
        "i = Flatten(z)", "y = MatMul(i, w4)",
    ]  # fmt: skip


def volumes(w: Weights) -> tuple[tuple[int, ...], list[str]]:
    """A scan: convolutions, a BatchNormalization alone, a skip by Concat, a transposed convolution, pools."""
    for name, shape in {"w1": (8, 2, 3, 3, 3), "w2": (8, 8, 1, 3, 3), "wt": (8, 4, 2, 2, 2), "w4": (12, 3)}.items():
        w.normal(name, *shape)
    for name in ("n", "m"):
        w.batch_norm(name, 8)
    same = "pads=[1, 1, 1, 1, 1, 1]"
    return (2, 4, 6, 6), [
        f"a = Conv<{same}>(x, w1)", "b = BatchNormalization(a, n_g, n_b, n_m, n_v)", "r = Relu(b)",
        "h = MaxPool<kernel_shape=[2, 2, 2], strides=[2, 2, 2]>(r)", "c = BatchNormalization(h, m_g, m_b, m_m, m_v)",
        "d = Relu(c)", "e = Conv<pads=[0, 1, 1, 0, 1, 1]>(d, w2)", "f = Relu(e)",
        "g = ConvTranspose<strides=[2, 2, 2]>(f, wt)", "i = Relu(g)", "j = Concat<axis=1>(i, r)",
        "k = AveragePool<kernel_shape=[2, 2, 2], strides=[2, 2, 2]>(j)", "z = GlobalAveragePool(k)", "q = Flatten(z)",
        "y = MatMul(q, w4)",
    ]  # fmt: skip


@pytest.mark.parametrize("network", [rows, volumes])
def test_it_trains_and_exports(network: Any) -> None:
    w = Weights()
    shape, nodes = network(w)
    model = quantized(float_model("net", shape, nodes, **w.constants))
    executor, x = Executor(model), torch.randn(4, *shape)
    assert_exact(model, x.numpy(), executor)
    executor.train()(x)[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in executor.parameters() if p.requires_grad)
    spec = finalized(model)
    assert not read_view(spec).islands
    for lowered in (to_qoperator(spec), to_integer(spec)):
        run_gate(spec, lowered)
