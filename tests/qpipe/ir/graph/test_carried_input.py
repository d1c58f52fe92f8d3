import numpy as np
import onnx_ir as ir
import pytest

from qpipe.ir.graph.carried_input import Carried, carry, importance, main_path
from qpipe.ir.graph.residual import find_blocks
from support.networks import Network
from support.run import run

FLOAT32 = 1e-5  # of numbers of size 1, through a scale and its inverse


def carried_of(x: np.ndarray, channels: list[int]) -> Carried:
    own = x[:, channels].astype(np.float64)
    axes = (0, 2, 3)
    return Carried(np.array(channels), own.mean(axes), own.var(axes), own.min(axes), own.max(axes))


def inverted(net: Network, *, stride: int = 1, bias: bool = False) -> ir.Model:
    """Wide, depthwise, narrow, within ReLU6; the input has numbers below 0."""

    def layer(x: str, fan_in: int, out: int, size: int, **attributes: object) -> str:
        y = net.conv(x, fan_in, out, (size, size), bias=bias, **attributes)
        return y if bias else net.norm(y, out)

    x = net.conv("x", 3, 4, bias=True)
    y = net.relu6(layer(x, 4, 12, 1))
    y = net.relu6(layer(y, 12, 12, 3, groups=12, strides=[stride, stride]))
    y = layer(y, 12, 4, 1)
    skip = x if stride == 1 else net.conv(x, 4, 4, (1, 1), strides=[stride, stride])
    return net.model(net.op("Add", y, skip))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_the_channels_hold_the_input(stride: int, bias: bool) -> None:
    """Up to a factor and an offset, at the skip's own pixels, through a depthwise layer and two ReLU6."""
    net = Network(3, 7, 7)
    model = inverted(net, stride=stride, bias=bias)
    (block,) = find_blocks(model.graph)
    path = main_path(model.graph, block)
    assert path is not None
    assert [len(stage) for stage in path.stages] == [2]
    source, reads = block.start, path.last.inputs[0]
    model.graph.outputs.extend([source, reads])
    x = net.inputs(30, scale=3)
    start = run(model, x)[1]
    given_up = [np.array([7, 2])]
    assert carry(path, carried_of(start, [3, 0]), given_up)
    _, start, read = run(model, x)
    for own, channel in ((7, 3), (2, 0)):
        expected, found = start[:, channel, ::stride, ::stride].reshape(-1), read[:, own].reshape(-1)
        slope, offset = np.polyfit(expected, found, 1)
        assert slope > 0
        np.testing.assert_allclose(slope * expected + offset, found, atol=6 * FLOAT32)
        assert (found >= 0).all()
        assert (found <= 6).all()


def test_nothing_changes_where_groups_keep_channels_apart() -> None:
    net = Network(4, 5, 5)
    y = net.op("Relu", net.conv("x", 4, 4, groups=2, bias=True))
    model = net.model(net.op("Add", net.conv(y, 4, 4, bias=True), "x"))
    (block,) = find_blocks(model.graph)
    path = main_path(model.graph, block)
    assert path is not None
    x = net.inputs()
    before = run(model, x)[0]
    assert not carry(path, carried_of(x, [0]), [np.array([1])])
    np.testing.assert_array_equal(run(model, x)[0], before)


def test_importance_is_what_a_channel_adds_to_the_sums() -> None:
    net = Network(6, 4, 4)
    model = net.model(net.op("Add", net.conv(net.op("Relu", net.conv("x", 6, 8, bias=True)), 8, 6, bias=True), "x"))
    (block,) = find_blocks(model.graph)
    path = main_path(model.graph, block)
    assert path is not None
    weight = path.last.node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    array = weight.const_value.numpy()
    variance = np.arange(8.0)
    expected = np.square(array.astype(np.float64)).sum(axis=(0, 2, 3)) * variance
    np.testing.assert_allclose(importance(path.last, variance), expected, rtol=1e-12)


@pytest.mark.parametrize("last", ["activated", "grouped"])
def test_a_path_that_ends_otherwise_is_none(last: str) -> None:
    net = Network(4, 5, 5)
    y = net.conv(net.op("Relu", net.conv("x", 4, 4, bias=True)), 4, 4, bias=True,
                 groups=2 if last == "grouped" else 1)  # fmt: skip
    y = net.op("Relu", y) if last == "activated" else y
    model = net.model(net.op("Add", y, "x"))
    (block,) = find_blocks(model.graph)
    assert main_path(model.graph, block) is None
