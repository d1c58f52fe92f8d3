"""Every convolution of a residual block has a shortcut, and no ReLU stands before one."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.skips.shortcut_every_convolution import ShortcutEveryConvolution
from qpipe.errors import LoweringError
from qpipe.ir.graph.binary_blocks import binary_blocks, binary_layers
from support.networks import Network, checked, ops
from support.run import run
from support.zoo.residual import (
    activated_branch,
    inverted_residuals,
    made,
    norm_conv,
    post_activation,
    pre_activation,
    unused,
)

SUMMED_OTHERWISE = 1e-5
"""Of values of size 1: float32 sums in another order."""


def shortcut(model: ir.Model) -> ir.Model:
    before = unused(model)
    assert ShortcutEveryConvolution()(model).modified
    assert unused(model) <= before
    return checked(model)


def reads(model: ir.Model, name: str) -> list[str]:
    """The nodes that give a node's inputs."""
    node = next(node for node in model.graph if node.name == name)
    return [str(v.producer().name) for v in node.inputs if v is not None and v.producer() is not None]


def test_a_basic_block_and_one_that_changes_the_shape() -> None:
    _, model = made(post_activation)
    shortcut(model)
    assert [(b.name, b.layers, b.end) for b in binary_blocks(model)] == [
        ("add1", ("conv3", "conv6"), "add1"),
        ("add2", ("conv10", "conv13"), "add2"),
    ]
    assert ops(model).count("Add") == 4
    # The stem's ReLU is gone too; the one that only the head reads is not.
    assert ops(model).count("Relu") == 1
    assert reads(model, "conv3") == ["batchnormalization1"]
    assert reads(model, "conv3_shortcut") == ["batchnormalization4", "batchnormalization1"]
    assert reads(model, "conv6") == ["conv3_shortcut"]
    assert reads(model, "add1") == ["batchnormalization7", "conv3_shortcut"]
    # The projection is taken where its shape begins.
    assert reads(model, "conv10_shortcut") == ["batchnormalization11", "batchnormalization16"]
    assert reads(model, "add2") == ["conv10_shortcut", "batchnormalization14"]
    assert reads(model, "out2") == ["add2"]


def by_hand(net: Network) -> str:
    """What `post_activation` becomes, from the same draws."""
    x = norm_conv(net, "x", 3, 8)
    s = net.op("Add", norm_conv(net, x, 8, 8), x)
    x = net.op("Add", norm_conv(net, s, 8, 8), s)
    y = norm_conv(net, x, 8, 16, strides=[2, 2])
    second = net.floats(16, 16, 3, 3, scale=(2 / (16 * 9)) ** 0.5)
    norm = [np.abs(net.floats(16, scale=0.5)) + 0.5, net.floats(16, scale=0.3), net.floats(16, scale=0.3),
            np.abs(net.floats(16)) + 0.5]  # fmt: skip
    s = net.op("Add", y, norm_conv(net, x, 8, 16, 1, strides=[2, 2]))
    product = net.op("Conv", s, net.constant(second), pads=[1, 1, 1, 1])
    z = net.op("BatchNormalization", product, *(net.constant(np.float32(t)) for t in norm))
    return net.head(net.op("Relu", net.op("Add", z, s)), 16)


def test_the_function_is_that_of_the_graph_by_hand() -> None:
    net, model = made(post_activation)
    shortcut(model)
    other = Network(3, 8, 8)
    expected = run(other.model(by_hand(other)), net.inputs())[0]
    np.testing.assert_allclose(run(model, net.inputs())[0], expected, rtol=SUMMED_OTHERWISE, atol=SUMMED_OTHERWISE)


def test_where_channels_change_there_is_none() -> None:
    """Of an inverted residual the expansion has none, the depthwise one its input, and the last the block's own."""
    _, model = made(inverted_residuals)
    shortcut(model)
    assert ops(model).count("Add") == 4
    assert reads(model, "conv8") == ["batchnormalization6"]
    assert reads(model, "conv8_shortcut") == ["batchnormalization9", "batchnormalization6"]
    assert reads(model, "add1") == ["batchnormalization4", "batchnormalization12"]
    # Those outside of blocks keep theirs: of the stem and of the head.
    assert ops(model).count("Clip") == 2


def test_an_activation_before_the_add_goes() -> None:
    _, model = made(activated_branch)
    shortcut(model)
    assert ops(model).count("Relu") == 1


def test_the_stems_relu_goes_through_its_pooling() -> None:
    net = Network(3, 8, 8)
    x = net.op("MaxPool", net.op("Relu", norm_conv(net, "x", 3, 8)), kernel_shape=[2, 2], strides=[2, 2])
    y = norm_conv(net, net.op("Relu", norm_conv(net, x, 8, 8)), 8, 8)
    model = net.model(net.head(net.op("Relu", net.op("Add", y, x)), 8))
    shortcut(model)
    assert ops(model)[:4] == ["Conv", "BatchNormalization", "MaxPool", "Conv"]


def test_a_second_run_does_nothing() -> None:
    _, model = made(post_activation)
    shortcut(model)
    names = [node.name for node in model.graph]
    assert not ShortcutEveryConvolution()(model).modified
    assert [node.name for node in model.graph] == names
    assert binary_layers(model) == {"conv3", "conv6", "conv10", "conv13"}


def plain(net: Network) -> str:
    return net.head(net.op("Relu", norm_conv(net, net.op("Relu", norm_conv(net, "x", 3, 8)), 8, 8)), 8)


def wide(net: Network) -> str:
    """Something else reads what lies between two convolutions."""
    x = net.op("Relu", norm_conv(net, "x", 3, 8))
    inner = net.op("Relu", norm_conv(net, x, 8, 8))
    y = net.op("Add", norm_conv(net, inner, 8, 8), x, name="add1")
    return net.head(net.op("Add", y, inner), 8)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: made(pre_activation)[1], r"^block 'add1': no BatchNormalization follows Conv 'conv6', expected one$"),
        (lambda: (net := Network(3, 8, 8)).model(plain(net)), r"^no inner residual blocks, expected"),
        (lambda: (net := Network(3, 8, 8)).model(wide(net)), r"^block '[a-z0-9]+': '.*' is read more than once"),
    ],
    ids=["pre-activation", "no blocks", "read twice"],
)
def test_what_can_not_be_is_refused_before_anything_changes(model: object, message: str) -> None:
    network = model()  # type: ignore[operator]
    before = [(node.name, [v.name for v in node.inputs if v is not None]) for node in network.graph]
    with pytest.raises(LoweringError, match=message):
        ShortcutEveryConvolution()(network)
    assert [(node.name, [v.name for v in node.inputs if v is not None]) for node in network.graph] == before
