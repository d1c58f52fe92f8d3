"""Whatever its parameters' magnitudes, a network is refused in a line, or its file runs as it lies, near itself."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import qpipe
from qpipe.calibration.findings import least_decibels
from qpipe.errors import QpipeError
from support.networks import Network, load
from support.quantize import finalized
from support.run import run

NEAR = least_decibels(8)
"""Decibels of signal to noise that calibration expects of each tensor, or else it warns."""
UNROUNDED = 10.0
"""Decibels between a trainable file as it lies and what ships: the multipliers of two layers are rounded to 8 bits, and
values next to an edge between two codes fall to either side."""

POWERS = st.one_of(st.just(0), st.integers(-4, 4), st.integers(-30, 30))


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """Two convolutions with biases, with BatchNormalization or without, and a Gemm; each parameter times 10**n."""
    net = Network(2, 6, 6, seed=draw(st.integers(0, 9)))
    y = "x"
    for fan_in in (2, 4):
        y = net.conv(y, fan_in, 4, bias=True)
        if draw(st.booleans()):
            y = net.norm(y, 4)
        y = net.op("Relu", y)
    proto = net.proto(net.head(y, 4))
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float64) * 10.0 ** draw(POWERS)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.clip(array, -3e38, 3e38).astype(np.float32), tensor.name))
    return proto


def decibels(signal: np.ndarray, other: np.ndarray) -> float:
    """Of signal to noise; of what is equal infinite, of no signal minus infinity."""
    noise = float(((signal.astype(np.float64) - other) ** 2).sum())
    power = float((signal.astype(np.float64) ** 2).sum())
    return math.inf if noise == 0 else 10 * math.log10(power / noise) if power > 0 else -math.inf


OPTIONS = st.fixed_dictionaries({"restore_batch_norm": st.booleans(), "per_channel": st.booleans()})


@given(proto=networks(), options=OPTIONS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_refused_or_near(proto: onnx.ModelProto, options: dict[str, Any]) -> None:
    inputs = np.random.default_rng(0).standard_normal((16, 2, 6, 6)).astype(np.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            network = qpipe.calibrate(proto, inputs, **options)
        except QpipeError:
            return
    assert {warning.category for warning in caught} <= {UserWarning}, "nothing overflows on the way"
    expected, ships, lies = (run(model, inputs)[0] for model in (load(proto), finalized(network), network))
    assert np.isfinite(lies).all()
    if not caught:
        assert decibels(expected, ships) >= NEAR
    if decibels(expected, ships) >= NEAR:
        assert decibels(ships, lies) >= UNROUNDED


@pytest.mark.parametrize("size", [1e-4, 1e-8, 1e-15, 1e-30])
def test_tiny_weights_beside_an_ordinary_bias(size: float) -> None:
    """Their scale times the input's is no unit for the bias: as int32 it would wrap around."""
    net = Network(2, 6, 6)
    y = net.op("Relu", net.conv("x", 2, 4, name="c1"))
    first = next(iter(net.constants))
    net.constants[first] *= np.float32(size)
    net.constants["b"] = np.full(4, 1e6, np.float32)
    net.nodes[0].input.append("b")
    proto, inputs = net.proto(net.head(y, 4)), net.inputs(16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that all weights are 0 beside the bias
        network = qpipe.calibrate(proto, inputs, restore_batch_norm=False)
    expected, ships, lies = (run(model, inputs)[0] for model in (load(proto), finalized(network), network))
    assert decibels(expected, ships) > 20
    assert decibels(expected, lies) > 20
