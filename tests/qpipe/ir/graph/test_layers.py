import numpy as np
import pytest

from qpipe.ir.graph.layers import Layer, group_layers
from qpipe.ops import ActivationFunction, Curve, Rectifier, Role, activation_of
from qpipe.ops.lines import Bounds
from support.networks import Network


def layers(net: Network, *outputs: str) -> list[Layer]:
    return group_layers(net.model(*outputs).graph)


def shapes(found: list[Layer]) -> list[list[str]]:
    return [[node.op_type for node in layer.nodes] for layer in found]


def test_a_layer_is_its_node_its_norm_and_its_activation() -> None:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.norm(net.conv("x", 3, 8), 8))
    y = net.relu6(net.op("Add", net.conv(x, 8, 8), x))
    found = layers(net, net.op("Relu", net.op("AveragePool", y, kernel_shape=[2, 2])))
    assert shapes(found) == [["Conv", "BatchNormalization", "Relu"], ["Conv"], ["Add", "Clip"], ["AveragePool", "Relu"]]
    assert [layer.role for layer in found] == [Role.COMPUTE, Role.COMPUTE, Role.JOIN, Role.POOL]
    assert [len(layer.inputs) for layer in found] == [1, 1, 2, 1]


def test_what_others_read_is_not_fused() -> None:
    net = Network(3, 8, 8)
    x = net.conv("x", 3, 8)
    a, b = net.op("Relu", x), net.norm(x, 8)
    assert shapes(layers(net, a, b)) == [["Conv"], ["Relu"], ["BatchNormalization"]]
    net = Network(3, 8, 8)
    x = net.conv("x", 3, 8)
    assert shapes(layers(net, net.op("Relu", x), x)) == [["Conv"], ["Relu"]]


def test_a_norm_whose_statistics_are_computed_is_not_fused() -> None:
    net = Network(3, 8, 8)
    x = net.conv("x", 3, 8)
    scale = net.op("Reshape", net.op("ReduceMax", x, keepdims=0), net.constant(np.array([1])))
    scale = net.op("Expand", scale, net.constant(np.array([8])))
    rest = [net.constant(np.ones(8, np.float32)) for _ in range(3)]
    found = layers(net, net.op("BatchNormalization", net.op("Identity", net.conv("x", 3, 8)), scale, *rest))
    assert {layer.op_type: layer.role for layer in found}["BatchNormalization"] is Role.NONE
    assert ["Conv", "BatchNormalization"] not in shapes(found)


def test_a_matmul_of_sequences_has_its_channels_last() -> None:
    net = Network(6, 12)
    y = net.norm(net.op("MatMul", "x", net.constant(net.floats(12, 4))), 6)
    assert shapes(layers(net, y)) == [["MatMul"], ["BatchNormalization"]]
    net = Network(12)
    y = net.norm(net.op("MatMul", "x", net.constant(net.floats(12, 4))), 4)
    assert shapes(layers(net, y)) == [["MatMul", "BatchNormalization"]]


def clip(low: float | None, high: float | None) -> ActivationFunction | None:
    net = Network(4)
    names = [net.constant(np.float32(v)) if v is not None else "" for v in (low, high)]
    return activation_of(net.model(net.op("Clip", "x", *names)).graph.node(0))


@pytest.mark.parametrize(("low", "high", "bound"), [(0, 6, 6), (0, None, np.inf), (0, np.inf, np.inf)])
def test_activation_bound(low: float, high: float | None, bound: float) -> None:
    assert clip(low, high) == Rectifier(bound)


@pytest.mark.parametrize(("low", "high"), [(-1, 6), (None, 6), (1, 6), (-1, None)])
def test_a_clip_to_other_bounds_is_a_curve(low: float | None, high: float | None) -> None:
    numbers = tuple((name, float(v)) for name, v in (("low", low), ("high", high)) if v is not None)
    found = clip(low, high)
    assert found == Curve("Clip", "", numbers, Bounds())
    x = np.linspace(-9, 9, 37)
    np.testing.assert_array_equal(found.real(x), np.clip(x, low, high))


def roles(net: Network, *outputs: str) -> list[Role]:
    return [layer.role for layer in layers(net, *outputs)]


def test_nodes_without_an_integer_form() -> None:
    net = Network(3, 8, 8)
    weight = net.op("Mul", net.constant(net.floats(4, 3, 1, 1)), net.op("ReduceMax", "x", keepdims=0))
    assert roles(net, net.op("Conv", "x", weight))[-1] is Role.NONE
    net = Network(3, 8, 8)
    bias = net.op("ReduceMax", "x", net.constant(np.array([0, 2, 3])), keepdims=0)
    assert roles(net, net.op("Conv", "x", net.constant(net.floats(3, 3, 1, 1)), bias))[-1] is Role.NONE
    # Pads that the network computes, a mean over images, an op that no class has.
    net = Network(3, 8, 8)
    pads = net.op("Cast", net.op("ReduceMax", "x", keepdims=0), to=7)
    pads = net.op("Expand", net.op("Reshape", pads, net.constant(np.array([1]))), net.constant(np.array([8])))
    assert roles(net, net.op("Pad", "x", pads))[-1] is Role.NONE
    net = Network(3, 8, 8)
    assert roles(net, net.op("ReduceMean", "x", net.constant(np.array([0])))) == [Role.NONE]
    net = Network(3, 8, 8)
    assert roles(net, net.op("Relu", net.op("Hardmax", "x"))) == [Role.NONE, Role.CARRY]


def test_nodes_that_have_an_integer_form() -> None:
    net = Network(3, 8, 8)
    assert roles(net, net.op("Add", "x", net.constant(np.float32(3)))) == [Role.JOIN]
    net = Network(3, 8, 8)
    assert roles(net, net.op("Add", "x", net.op("GlobalAveragePool", "x"))) == [Role.POOL, Role.JOIN]
    net = Network(5)
    assert roles(net, net.op("Gemm", "x", net.constant(net.floats(5, 4)), alpha=0.5)) == [Role.COMPUTE]
    net = Network(3, 8, 8)
    ones = net.constant(np.float32(1))
    assert roles(net, net.op("Pad", "x", net.constant(np.array([0, 0, 1, 1] * 2)), ones)) == [Role.CARRY]
    net = Network(3, 8, 8)
    assert roles(net, net.op("Pad", "x", net.constant(np.array([0, 0, 1, 1] * 2)), mode="reflect")) == [Role.CARRY]
    # The axes that it takes away become constants on loading.
    net = Network(3, 1, 8, batch=2)
    assert roles(net, net.op("Relu", net.op("Squeeze", "x"))) == [Role.CARRY, Role.CARRY]
    net = Network(3, 8, 8)
    assert roles(net, net.op("ReduceMean", "x", net.constant(np.array([1])))) == [Role.POOL]
