import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.quantizing.hold_low_bit_weights import HoldLowBitWeights
from qpipe.ir.files.metadata import TRAINING, get_json, set_json
from qpipe.nodes import require_constant
from support.networks import Network, float_model


def network() -> ir.Model:
    """Three convolutions, one of them depthwise, and a Gemm whose weight is `[K, C]` before the last."""
    net = Network(3, 8, 8)
    x = net.op("Relu", net.conv("x", 3, 8, name="first"))
    x = net.op("Relu", net.norm(net.conv(x, 8, 8, name="middle"), 8))
    x = net.op("Relu", net.conv(x, 8, 8, groups=8, name="depthwise"))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    x = net.op("Relu", net.gemm(x, 8, 6, transposed=False))
    return trained(net.model(net.gemm(x, 6, 5)))


def trained(model: ir.Model) -> ir.Model:
    set_json(model, TRAINING, {"epochs": []})
    return model


def weights(model: ir.Model) -> dict[str, np.ndarray]:
    nodes = [node for node in model.graph if node.op_type in {"Conv", "Gemm"}]
    return {str(node.name): np.array(require_constant(node, 1, "weight")) for node in nodes}


def hold(bits: int = 3, *, ends: bool = False) -> HoldLowBitWeights:
    return HoldLowBitWeights(element=(0, bits), group_exponent=8, ends=ends)


@pytest.mark.parametrize("ends", [False, True])
def test_inner_layers_lie_on_a_grid_for_each_output_channel(ends: bool) -> None:
    model = network()
    before = weights(model)
    assert hold(ends=ends)(model).modified
    after = weights(model)
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert changed == (list(before) if ends else list(before)[1:-1])
    for name in changed:
        axis = 1 if before[name].shape == (8, 6) else 0
        floats, found = (
            np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1) for values in (before[name], after[name])
        )
        step = 2.0 ** (np.ceil(np.log2(np.abs(floats).max(axis=1, keepdims=True))) - 3)
        # To the nearest code of four bits; only what rounds up to 8 is cut to 7.
        assert np.array_equal(found, np.clip(np.round(floats / step), -7, 7) * step)


def test_a_second_run_finds_nothing_to_do() -> None:
    """It would round on: a weight of 0.51 becomes 0.5, which would be the top of a finer grid."""
    model = network()
    hold()(model)
    assert get_json(model, TRAINING) is None
    held = weights(model)
    assert not hold()(model).modified
    assert all(np.array_equal(held[name], found) for name, found in weights(model).items())


def test_a_network_of_ends_alone_stays_as_it_is() -> None:
    net = Network(3, 8, 8)
    model = trained(net.model(net.head(net.op("Relu", net.conv("x", 3, 8)), 8)))
    before = weights(model)
    hold()(model)
    assert all(np.array_equal(before[name], found) for name, found in weights(model).items())


def test_a_weight_that_others_read_is_theirs_still() -> None:
    """Exporters share equal constants."""
    shared = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
    model = trained(float_model("shared", (4,), ["a = MatMul(x, w)", "b = MatMul(a, w)", "y = MatMul(b, w)"], w=shared))
    assert hold()(model).modified
    found = list(model.graph)
    first, middle, last = (np.array(require_constant(node, 1, "weight")) for node in found)
    assert np.array_equal(first, shared)
    assert np.array_equal(last, shared)
    assert not np.array_equal(middle, shared)


@given(exponent=st.integers(-30, 30), bits=st.integers(1, 7))
def test_a_power_of_two_of_the_weights_is_one_of_what_they_become(exponent: int, bits: int) -> None:
    model, scaled = network(), network()
    for node in scaled.graph:
        if node.op_type in {"Conv", "Gemm"}:
            value = node.inputs[1]
            assert value is not None
            array = np.array(require_constant(node, 1, "weight")) * np.float32(2.0**exponent)
            value.const_value = ir.tensor(array, name=value.name)
    hold(bits)(model)
    hold(bits)(scaled)
    for name, found in weights(model).items():
        assert np.array_equal(found * np.float32(2.0**exponent), weights(scaled)[name])
