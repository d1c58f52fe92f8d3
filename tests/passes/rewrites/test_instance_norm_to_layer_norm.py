"""Normalization of channels and of groups of them is one of rows."""

import numpy as np
import pytest

import qpipe
from passes.rewrites.instance_norm_to_layer_norm import InstanceNormToLayerNorm
from qpipe.arith.layer_norm import LONGEST_ROW
from support.networks import build
from support.rewriting import assert_same, assert_stays, network

CONSTANTS = {
    "ones": np.ones(4, np.float32), "zeros": np.zeros(4, np.float32), "scale": np.float32([1, 2, -1, 0.5]),
    "bias": np.float32([0, 1, -2, 3]), "w": np.ones((2, 4, 1, 1), np.float32),
}  # fmt: skip
ROUNDINGS = 1e-5
"""Normalized numbers up to 10, of sums of up to 50: both sum in another order, some last bits of 2**-23."""


@pytest.mark.parametrize(
    ("shape", "node", "expected"),
    [
        ("N,4,5", "InstanceNormalization(x, ones, zeros)", ["LayerNormalization"]),
        ("N,4,5,3", "InstanceNormalization(x, ones, zeros)", ["Reshape", "LayerNormalization", "Reshape"]),
        (
            "N,4,5,3", "InstanceNormalization<epsilon=0.01>(x, scale, bias)",
            ["Reshape", "LayerNormalization", "Reshape", "Mul", "Add"],
        ),
        (
            "N,4,5,3", "GroupNormalization<num_groups=2>(x, scale, zeros)",
            ["Reshape", "LayerNormalization", "Reshape", "Mul"],
        ),
        (
            "2,4,6", "GroupNormalization<num_groups=1, epsilon=0.1>(x, ones, bias)",
            ["Reshape", "LayerNormalization", "Reshape", "Add"],
        ),
    ],
)  # fmt: skip
def test_it_is_a_normalization_of_rows(shape, node, expected):
    x = np.random.default_rng(0).normal(1, 2, [int(size) if size != "N" else 2 for size in shape.split(",")])
    used = {name: array for name, array in CONSTANTS.items() if f"{name}," in node or f"{name})" in node}
    last = np.eye(4, dtype=np.float32).reshape(4, 4, *[1] * (shape.count(",") - 1))
    # onnx infers no shape behind a GroupNormalization.
    model = build(f"(float[{shape}] x) => (float[{shape}] y) {{ n = {node} y = Conv(n, last) }}", last=last, **used)
    assert_same(InstanceNormToLayerNorm(), model, [*expected, "Conv"], atol=ROUNDINGS, x=x.astype(np.float32))


@pytest.mark.parametrize(
    ("shape", "node"),
    [
        ("N,4,H,3", "InstanceNormalization(x, ones, zeros)"),
        (f"N,4,{LONGEST_ROW + 1},1", "InstanceNormalization(x, ones, zeros)"),
        ("N,4,5,3", "InstanceNormalization(x, computed, zeros)"),
    ],
)
def test_what_stays(shape, node):
    nodes = f"computed = Relu(ones) n = {node} y = Conv(n, w)"
    assert_stays(InstanceNormToLayerNorm(), network(shape, nodes, **CONSTANTS))


def test_what_leads_to_outputs_alone_stays():
    assert_stays(InstanceNormToLayerNorm(), network("N,4,5", "y = InstanceNormalization(x, ones, zeros)", **CONSTANTS))


def test_the_longest_row_is_one():
    model = network(f"N,4,{LONGEST_ROW},1", "n = InstanceNormalization(x, ones, zeros) y = Conv(n, w)", **CONSTANTS)
    assert InstanceNormToLayerNorm()(model).modified


def test_nothing_of_it_stays_float():
    nodes = "c = Conv(x, w4) n = InstanceNormalization(c, scale, bias) r = Relu(n) y = Conv(r, w)"
    used = {name: CONSTANTS[name] for name in ("scale", "bias", "w")}
    model = build(f"(float[N,3,6,6] x) => (float[] y) {{ {nodes} }}", w4=np.ones((4, 3, 1, 1), np.float32), **used)
    assert "float island" not in {node.role for node in qpipe.inspect(model).nodes}
