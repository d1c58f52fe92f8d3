import numpy as np
import onnx_ir as ir
import pytest

from passes.quantizing.calibrate_percentile import take_range, write_range
from passes.quantizing.keep_codes import KeepCodes
from passes.skips.carry_skips import CarrySkips
from qpipe.calibration.observe import ObservedRange
from qpipe.ir.graph.layers import group_layers
from qpipe.ir.graph.passing import passing_gain
from qpipe.ir.quantized.plan import plan_quantization
from support.networks import Network
from support.run import run


def bottleneck(bound: float | None = None) -> tuple[Network, ir.Model]:
    net = Network(3, 6, 6)

    def cut(x: str) -> str:
        return net.op("Relu", x) if bound is None else net.relu6(x, bound)

    x = cut(net.conv("x", 3, 4, bias=True))
    y = cut(net.conv(x, 4, 3, (1, 1), bias=True))
    y = cut(net.conv(y, 3, 3, bias=True))
    model = net.model(net.op("Relu", net.op("Add", net.conv(y, 3, 4, (1, 1), bias=True), x)))
    CarrySkips()(model)
    return net, model


def ranged(model: ir.Model, *powers: int) -> None:
    values = list(plan_quantization(model.graph).quantizers)
    for value, power in zip(values, powers, strict=True):
        write_range(value, ObservedRange(ymax=0.9 * 2.0**power, is_negative=value.is_graph_input()))


def gains(model: ir.Model) -> list[list[float]]:
    found = [passing_gain(layer) for layer in group_layers(model.graph) if layer.is_weighted]
    return [gain[gain > 0].tolist() for gain in found]


def test_a_gain_is_from_range_to_range_and_the_function_the_same_bit_for_bit() -> None:
    net, model = bottleneck()
    assert gains(model) == [[], [1.0] * 4, [1.0] * 4, []]
    x = net.inputs()
    (before,) = run(model, x)
    ranged(model, 1, 0, 3, 2, 5)
    assert KeepCodes()(model).modified
    assert gains(model) == [[], [8.0] * 4, [0.5] * 4, []]
    np.testing.assert_array_equal(run(model, x)[0], before)
    assert [take_range(value).ymax for value in plan_quantization(model.graph).quantizers][2] == 0.9 * 8


def test_nothing_is_to_do_where_ranges_are_the_same() -> None:
    _, model = bottleneck()
    ranged(model, 1, 2, 2, 2, 2)
    assert not KeepCodes()(model).modified


def test_a_bound_lets_no_factor_through() -> None:
    net, model = bottleneck(bound=6.0)
    x = net.inputs()
    (before,) = run(model, x)
    ranged(model, 1, 0, 3, 2, 5)
    assert not KeepCodes()(model).modified
    np.testing.assert_array_equal(run(model, x)[0], before)


@pytest.mark.parametrize(
    ("row", "bias", "expected"),
    [
        ([0, 4, 0], 0, 4.0),
        ([0, 0.25, 0], 0, 0.25),
        ([0, 3, 0], 0, 0.0),
        ([0, -2, 0], 0, 0.0),
        ([0, 2, 2], 0, 0.0),
        ([0, 2, 0], 0.1, 0.0),
        ([0, 0, 0], 0, 0.0),
    ],
)
def test_what_passes_a_channel_on(row: list[float], bias: float, expected: float) -> None:
    net = Network(3)
    weight, offset = net.constant(np.float32([row])), net.constant(np.float32([bias]))
    model = net.model(net.op("Gemm", "x", weight, offset, transB=1))
    (layer,) = group_layers(model.graph)
    assert passing_gain(layer).tolist() == [expected]
