"""Every width from 2 to 8, mixed: what is trained, the finalized file and every export compute the same integers."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.quantizing.rescale_channels import RescaleChannels
from qpipe.arith.power_of_two import Rounding
from qpipe.ir.graph.layer_options import LayerOptions, LayerTable
from qpipe.ir.quantized.view import is_trainable, read_view
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from qpipe.train.write_back import write_back
from support.networks import Network
from support.quantize import finalized, quantized, to_integer, to_qoperator
from support.run import assert_exact, evaluated, run
from support.training import train_steps

LAYERS = ("first", "second", "branch", "sum", "side", "third", "pool", "last")
WIDTHS = st.integers(2, 8)


def network(seed: int = 0) -> tuple[Network, str]:
    """A branch before an Add, a Concat of two widths, pools, ReLU6."""
    net = Network(3, 8, 8, seed=seed)
    a = net.op("Relu", net.norm(net.conv("x", 3, 8, name="first"), 8))
    b = net.relu6(net.conv(net.op("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2]), 8, 8, bias=True, name="second"))
    branch = net.norm(net.conv(b, 8, 8, name="branch"), 8)
    c = net.op("Relu", net.op("Add", branch, b, name="sum"))
    side = net.op("Relu", net.norm(net.conv(b, 8, 4, (1, 1), name="side"), 4))
    d = net.op("Concat", c, side, axis=1)
    d = net.op("Relu", net.norm(net.conv(d, 12, 8, name="third"), 8))
    e = net.op("Flatten", net.op("GlobalAveragePool", d, name="pool"))
    return net, net.op("Gemm", e, net.constant(net.floats(8, 5)), name="last")


@st.composite
def tables(draw: st.DrawFn) -> LayerTable:
    entries = []
    for name in LAYERS:
        weight_bits = None if name in ("sum", "pool") else draw(WIDTHS)
        activation_bits = None if name == "last" else draw(WIDTHS)
        entries.append(LayerOptions(name, weight_bits=weight_bits, activation_bits=activation_bits))
    return LayerTable(tuple(entries))


def mixed(layers: LayerTable, rounding: Rounding | None, *, rescaled: bool, seed: int = 0) -> tuple[ir.Model, Network]:
    net, y = network(seed)
    model = quantized(net.model(y), net.inputs(16), layers=layers, weight_rounding=rounding)
    if rescaled:
        RescaleChannels()(model)
    return model, net


@settings(max_examples=5)
@given(layers=tables(), rounding=st.sampled_from(["ceil", "nearest"]), rescaled=st.booleans(), seed=st.integers(0, 9))
def test_exports_are_exact(layers: LayerTable, rounding: Rounding, rescaled: bool, seed: int) -> None:
    spec = finalized(mixed(layers, rounding, rescaled=rescaled, seed=seed)[0])
    for exported in (to_qoperator(spec), to_integer(spec)):
        assert run_gate(spec, exported).tensors == 1 + len(read_view(spec).layers)


@settings(max_examples=8)
@given(layers=tables(), rounding=st.sampled_from(["ceil", "nearest"]), rescaled=st.booleans(), seed=st.integers(0, 9))
def test_training_is_exact(layers: LayerTable, rounding: Rounding, rescaled: bool, seed: int) -> None:
    """Evaluation equals the file, before training and after; widths and roundings stay what they were."""
    model, net = mixed(layers, rounding, rescaled=rescaled, seed=seed)
    before = specs(model)
    executor = Executor(model)
    x = net.inputs(16, seed=3)
    train_steps(executor, x, steps=2)
    write_back(executor)
    # Of 2 bits it may well give the same for all images, so this is no assert_exact.
    np.testing.assert_array_equal(evaluated(executor, x)[0].astype(np.float32), run(finalized(model), x)[0])
    assert specs(model) == before


def specs(model: ir.Model) -> list[object]:
    return [layer.weight.format for layer in read_view(model).layers if is_trainable(layer)]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("rounding", [None, "nearest"])
def test_one_width_for_all(bits: int, rounding: Rounding | None) -> None:
    net, y = network()
    model = quantized(net.model(y), net.inputs(16), weight_bits=bits, activation_bits=bits, weight_rounding=rounding)
    RescaleChannels()(model)
    executor = Executor(model)
    assert_exact(model, net.inputs(16, seed=3), executor)
    train_steps(executor, net.inputs(16, seed=4))
    write_back(executor)
    assert_exact(model, net.inputs(16, seed=3), executor)


def test_a_layers_own_clip_reaches_training() -> None:
    """A tight clip gives a finer step than the width's own does, and goes on doing so."""
    exponents = []
    for clip in (None, 1.0):
        layers = LayerTable((LayerOptions("third", weight_bits=4, weight_clip=clip),))
        model, net = mixed(layers, None, rescaled=False)
        executor = Executor(model)
        train_steps(executor, net.inputs(16), steps=1, lr=1e-9)
        write_back(executor)
        weights = {layer.name: layer.weight for layer in read_view(model).layers if is_trainable(layer)}
        exponents.append(weights["third"].exponents)
    assert np.all(exponents[1] < exponents[0])
