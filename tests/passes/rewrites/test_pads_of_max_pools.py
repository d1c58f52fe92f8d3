"""A Pad that never wins before a MaxPool: onnxruntime computes the same, to the bit, with the pool's own pads."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qpipe
from passes.rewrites.pads_of_max_pools import PadsOfMaxPools
from qpipe.nodes import constant_input
from support.networks import Network, build
from support.rewriting import assert_same, assert_stays, network

LOWEST = float(np.finfo(np.float32).min)


@settings(max_examples=40)
@given(st.data(), st.integers(1, 2), st.sampled_from([-np.inf, LOWEST, 0.0]))
def test_the_pool_pads(data: st.DataObject, dims: int, fill: float) -> None:
    draw = data.draw
    kernel, strides = ([draw(st.integers(2, 4)) for _ in range(dims)] for _ in range(2))
    around = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    own = [draw(st.integers(0, k - 1 - p)) for k, p in zip(kernel * 2, around, strict=True)]
    sizes = [draw(st.integers(4, 7)) for _ in range(dims)]
    pads = np.array([0, 0, *around[:dims], 0, 0, *around[dims:]])
    model = network(
        f"N,2,{','.join(map(str, sizes))}",
        f"r = Relu(x) q = Pad(r, p, v) y = MaxPool<kernel_shape={kernel}, strides={strides}, pads={own}>(q)",
        p=pads, v=np.float32(fill),
    )  # fmt: skip
    assert_same(PadsOfMaxPools(), model, ["Relu", "MaxPool"], x=noise(2, 2, *sizes))


def test_without_a_relu_only_what_is_below_all() -> None:
    text, x = "q = Pad(x, p, v) y = MaxPool<kernel_shape=[3]>(q)", noise(2, 1, 5) - 3
    pads = np.array([0, 0, 1, 0, 0, 1])
    assert_same(PadsOfMaxPools(), network("N,1,5", text, p=pads, v=np.float32(-np.inf)), ["MaxPool"], x=x)
    for fill in (0.0, -1.0):
        assert_stays(PadsOfMaxPools(), network("N,1,5", text, p=pads, v=np.float32(fill)))


KERNEL = "kernel_shape=[2]"


@pytest.mark.parametrize(
    ("pads", "nodes"),
    [
        ([0, 0, 2, 0, 0, 0], f"y = MaxPool<{KERNEL}, strides=[3]>(q)"),
        ([0, 1, 0, 0, 0, 1], f"y = MaxPool<{KERNEL}>(q)"),
        ([0, 0, -1, 0, 0, 1], f"y = MaxPool<{KERNEL}>(q)"),
        ([0, 0, 1, 0, 0, 1], f"y = MaxPool<{KERNEL}, ceil_mode=1, strides=[2]>(q)"),
        ([0, 0, 1, 0, 0, 1], f"y = MaxPool<{KERNEL}, dilations=[2]>(q)"),
        ([0, 0, 1, 0, 0, 1], f'y = MaxPool<{KERNEL}, auto_pad="SAME_UPPER">(q)'),
        ([0, 0, 1, 0, 0, 1], f"y, i = MaxPool<{KERNEL}>(q)"),
    ],
)
def test_others_stay(pads: list[int], nodes: str) -> None:
    text = f"q = Pad(x, p, v) {nodes}"
    assert_stays(PadsOfMaxPools(), network("N,2,6", text, p=np.array(pads), v=np.float32(LOWEST)))


def test_an_infinite_border_that_stays_is_finite() -> None:
    """Where only MaxPools read it; else it is what the network says."""
    pads, fill = np.array([0, 0, 1, 0, 0, 1]), np.float32(-np.inf)
    dilated = f"q = Pad(x, p, v) m = MaxPool<{KERNEL}, dilations=[2]>(q)"
    model = network("N,2,6", f"{dilated} y = Identity(m)", p=pads, v=fill)
    assert_same(PadsOfMaxPools(), model, ["Pad", "MaxPool", "Identity"], x=noise(2, 2, 6))
    assert constant_input(model.graph.node(0), 2) == LOWEST
    text = f"{dilated} e = Exp(q) y = Concat<axis=2>(m, e)"
    assert_stays(PadsOfMaxPools(), network("N,2,6", text, p=pads, v=fill))


@pytest.mark.parametrize("readers", [1, 2])
def test_it_calibrates(readers: int) -> None:
    net = Network(3, 6, 6)
    pads, fill = net.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1])), net.constant(np.float32(-np.inf))
    padded = net.op("Pad", net.conv("x", 3, 4), pads, fill)
    pooled = [net.op("MaxPool", padded, kernel_shape=[3, 3], strides=[2, 2]) for _ in range(readers)]
    model = qpipe.calibrate(net.proto(net.head(net.op("Concat", *pooled, axis=1), 4 * readers)), net.inputs(16))
    assert isinstance(model, ir.Model)
    assert all(node.role in {"quantized", "carries integers"} for node in qpipe.inspect(model).nodes)


def test_what_else_reads_the_pad_keeps_it() -> None:
    text = f"q = Pad(x, p, v) m = MaxPool<{KERNEL}>(q) n = Relu(q) y = Concat<axis=2>(m, n)"
    model = network("N,2,6", text, p=np.array([0, 0, 1, 0, 0, 1]), v=np.float32(LOWEST))
    assert_same(PadsOfMaxPools(), model, ["Pad", "MaxPool", "Relu", "Concat"], x=noise(2, 2, 6))


def test_unknown_pads_stay() -> None:
    model = build("(float[N,2,6] x, int64[6] p) => (float[] y) { q = Pad(x, p) y = MaxPool<kernel_shape=[2]>(q) }")
    assert_stays(PadsOfMaxPools(), model)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)
