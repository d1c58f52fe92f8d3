"""Factors of channels move between layers: the function stays to the bit, and what a large channel hid is kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import qpipe
from passes.quantizing.equalize_channels import EqualizeChannels
from qpipe.nodes import require_constant
from support.networks import Network
from support.quantize import finalized
from support.run import run

FACTOR = np.float32(2.0**17)  # 1.3e5, and no bit is lost in dividing by it
FLOAT32_SUMS = 1e-5
"""Of the outputs' size: factors that are no powers of two are rounded in each weight."""
Build = Callable[[Network], str]


def chain(net: Network) -> str:
    y = net.op("Relu", net.conv("x", 3, 8, bias=True, name="writer"))
    return net.conv(y, 8, 4, name="reader")


def normalized(net: Network) -> str:
    y = net.op("Relu", net.norm(net.conv("x", 3, 8, name="writer"), 8))
    return net.conv(y, 8, 4, name="reader")


def pooled_rows(net: Network) -> str:
    y = net.op("Relu", net.conv("x", 3, 8, bias=True, name="writer"))
    y = net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("AveragePool", y, kernel_shape=[2, 2], strides=[1, 1])
    return net.gemm(net.op("Flatten", y), 8 * 9, 5)


def stream(net: Network) -> str:
    """Two layers write the channels of a residual stream, two read them."""
    y = net.op("Relu", net.conv("x", 3, 8, bias=True, name="writer"))
    inner = net.op("Relu", net.conv(y, 8, 8, bias=True, name="inner"))
    y = net.op("Relu", net.op("Add", net.conv(inner, 8, 8, bias=True, name="second"), y))
    return net.gemm(net.op("Flatten", net.op("GlobalAveragePool", y)), 8, 5)


def grouped(net: Network) -> str:
    y = net.op("Relu", net.conv("x", 3, 8, bias=True, name="writer"))
    return net.conv(y, 8, 12, name="reader", groups=4)


def depthwise(net: Network) -> str:
    y = net.op("Relu", net.conv("x", 3, 8, bias=True, name="writer"))
    y = net.op("Relu", net.conv(y, 8, 8, bias=True, name="depthwise", groups=8))
    return net.conv(y, 8, 4, name="reader")


BUILDS = [chain, normalized, pooled_rows, stream, grouped, depthwise]


def network(build: Build, factor: np.float32 = FACTOR) -> tuple[Network, str]:
    """Channel 2 of the first tensor is `factor` times as large, and its readers' weights as much smaller."""
    net = Network(3, 8, 8, seed=4)
    y = build(net)
    weights: Any = {
        node.name: [net.constants[name] for name in node.input[1:] if name in net.constants] for node in net.nodes
    }
    writer = weights["writer"] if build is not normalized else weights["batchnormalization1"][:2]
    for constant in writer[:2]:
        constant[2] *= factor
    if build is pooled_rows:
        weights[net.nodes[-1].name][0][:, 2 * 9 : 3 * 9] /= factor
    elif build is stream:
        for constant in weights["second"]:
            constant[2] *= factor
        weights["inner"][0][:, 2] /= factor
        weights[net.nodes[-1].name][0][:, 2] /= factor
    elif build is grouped:
        weights["reader"][0][3:6, 0] /= factor  # outputs 3 to 5 are group 1, which reads channels 2 and 3
    elif build is depthwise:
        weights["depthwise"][0][2] /= factor
    else:
        weights["reader"][0][:, 2] /= factor
    return net, y


@pytest.mark.parametrize("build", BUILDS)
def test_the_function_stays_to_the_bit(build: Build) -> None:
    net, y = network(build)
    model, inputs = net.model(y), net.inputs(8)
    before = run(model, inputs, optimize=False)[0]
    assert EqualizeChannels(inputs=inputs)(model).modified
    np.testing.assert_array_equal(run(model, inputs, optimize=False)[0], before)
    assert not EqualizeChannels(inputs=inputs)(model).modified


@pytest.mark.parametrize("build", BUILDS)
def test_calibration_keeps_what_it_lost(build: Build) -> None:
    """Without the pass nearly all channels keep no level."""
    net, y = network(build)
    inputs = net.inputs(16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network_ = qpipe.calibrate(net.proto(y), inputs)
    expected, found = run(net.model(y), inputs)[0], run(finalized(network_), inputs)[0]
    assert 10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum()) > 25


@pytest.mark.parametrize("build", BUILDS)
def test_a_healthy_network_stays_as_it_is(build: Build) -> None:
    net, y = network(build, np.float32(1))
    model = net.model(y)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not EqualizeChannels(inputs=net.inputs(8))(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def relu6(net: Network) -> str:
    """A bound is one number for all channels: a factor does not pass it."""
    y = net.relu6(net.conv("x", 3, 8, bias=True, name="writer"), bound=1e6)
    return net.conv(y, 8, 4, name="reader")


def sigmoid(net: Network) -> str:
    y = net.op("Sigmoid", net.conv("x", 3, 8, bias=True, name="writer"))
    return net.conv(y, 8, 4, name="reader")


@pytest.mark.parametrize("build", [relu6, sigmoid])
def test_what_no_factor_passes(build: Build) -> None:
    net, y = network(build)
    assert not EqualizeChannels(inputs=net.inputs(8))(net.model(y)).modified


def test_what_leaves_the_network_keeps_its_unit() -> None:
    net, y = network(chain)
    assert not EqualizeChannels(inputs=net.inputs(8))(net.model(y, "relu1_y")).modified


def test_a_large_channel_that_all_others_are_nothing_beside_stays() -> None:
    """Its readers do not make it smaller: what the others contribute is below 8 bits of the sums."""
    net, y = network(chain)
    net.constants[next(name for name in net.nodes[2].input[1:])][:, 2] *= FACTOR
    assert not EqualizeChannels(inputs=net.inputs(8))(net.model(y)).modified


def attention(net: Network) -> str:
    """One head; channel 2 of the queries is to be large, and that of the keys as small."""
    q, k, v = (net.op("MatMul", "x", net.constant(net.floats(6, 6)), name=name) for name in "qkv")
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1]), name="scores")
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    return net.op("MatMul", mixed, net.constant(net.floats(6, 5)))


def test_queries_and_keys_meet_in_the_middle() -> None:
    """What one channel of the queries is too large by the keys' takes; scores stay, and keep their signal."""
    n = Network(8, 6, seed=4)
    y = attention(n)
    for name, factor in (("q", FACTOR), ("k", 1 / FACTOR)):
        (weight,) = (n.constants[node.input[1]] for node in n.nodes if node.name == name)
        weight[:, 2] *= factor
    inputs = n.inputs(64)
    model = n.model(y)
    before = run(model, inputs, optimize=False)[0]
    assert EqualizeChannels(inputs=inputs)(model).modified
    after = run(model, inputs, optimize=False)[0]
    assert np.abs(after - before).max() <= FLOAT32_SUMS * np.abs(before).max()
    assert not EqualizeChannels(inputs=inputs)(model).modified
    found = run(finalized(qpipe.calibrate(n.proto(y), inputs)), inputs)[0]
    assert 10 * np.log10((before**2).sum() / ((before - found) ** 2).sum()) > 20  # 1 without the pass


def test_a_normalization_shares_its_outliers_with_the_weights_behind_it() -> None:
    """Two channels of eight times the gain, as trained transformers have them: 8 bits of one grid are theirs."""
    net = Network(4, 16)
    gamma = np.ones(32, np.float32)
    gamma[:2] = 8
    h = net.op("MatMul", "x", net.constant(net.floats(16, 32)))
    h = net.op("LayerNormalization", h, net.constant(gamma, "gamma"), net.constant(net.floats(32)), axis=-1)
    h = net.op("Relu", net.op("MatMul", h, net.constant(net.floats(32, 8))))
    y = net.op("MatMul", h, net.constant(net.floats(8, 3)))
    model, x = net.model(y), net.inputs(16)
    before = run(model, x)[0]
    EqualizeChannels(inputs=x)(model)
    np.testing.assert_array_equal(run(model, x)[0], before)
    node = next(node for node in model.graph if node.op_type == "LayerNormalization")
    found = require_constant(node, 1, "gamma")
    assert (found[:2] == 8).all()
    assert (found[2:] >= 2).all()
