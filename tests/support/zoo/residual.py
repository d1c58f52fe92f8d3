"""Small residual networks with their plain counterparts, and the pass that turns one into the other."""

from collections.abc import Callable

import onnx_ir as ir

from passes.skips.strip_skips import StripSkips
from support.networks import Network, Weights, checked, float_model

Build = Callable[[Network, bool], str]


def norm_conv(net: Network, x: str, fan_in: int, out: int, size: int = 3, **attributes: object) -> str:
    return net.norm(net.conv(x, fan_in, out, (size, size), **attributes), out)


def post_activation(net: Network, skips: bool, classes: int = 5) -> str:
    """Two basic blocks: an identity, and a convolution as skip, which is drawn in any case: equal weights follow."""
    x = net.op("Relu", norm_conv(net, "x", 3, 8))
    y = norm_conv(net, net.op("Relu", norm_conv(net, x, 8, 8)), 8, 8)
    x = net.op("Relu", net.op("Add", y, x, name="add1") if skips else y, name="out1")
    y = norm_conv(net, net.op("Relu", norm_conv(net, x, 8, 16, strides=[2, 2])), 16, 16)
    skip = norm_conv(net, x, 8, 16, 1, strides=[2, 2])
    x = net.op("Relu", net.op("Add", skip, y, name="add2") if skips else y, name="out2")
    return net.head(x, 16, classes)


def pre_activation(net: Network, skips: bool) -> str:
    x = net.conv("x", 3, 8)
    for number in range(2):
        y = net.conv(net.op("Relu", net.norm(x, 8)), 8, 8)
        y = net.conv(net.op("Relu", net.norm(y, 8)), 8, 8)
        x = net.op("Add", x, y, name=f"add{number + 1}") if skips else y
    return net.head(net.op("Relu", net.norm(x, 8)), 8)


def inverted_residuals(net: Network, skips: bool) -> str:
    """MobileNetV2's: nothing behind the Add, ReLU6 within."""
    x = norm_conv(net, net.relu6(norm_conv(net, "x", 3, 8)), 8, 8, 1)
    for number in range(2):
        y = net.relu6(norm_conv(net, net.relu6(norm_conv(net, x, 8, 16, 1)), 16, 16, groups=16))
        y = norm_conv(net, y, 16, 8, 1)
        x = net.op("Add", x, y, name=f"add{number + 1}") if skips else y
    return net.head(net.relu6(norm_conv(net, x, 8, 8, 1)), 8)


def activated_branch(net: Network, skips: bool) -> str:
    """The main path ends in an activation of its own, and another one follows the Add."""
    x = net.op("Relu", norm_conv(net, "x", 3, 8))
    for number in range(2):
        y = net.op("Relu", norm_conv(net, net.op("Relu", norm_conv(net, x, 8, 8)), 8, 8))
        x = net.op("Relu", net.op("Add", x, y, name=f"add{number + 1}")) if skips else y
    return net.head(x, 8)


BUILDS = [post_activation, pre_activation, inverted_residuals, activated_branch]


def made(build: Build, skips: bool = True) -> tuple[Network, ir.Model]:
    net = Network(3, 8, 8)
    model = net.model(build(net, skips))
    # The skip's convolution, which the plain network drew too but doesn't use.
    ir.passes.common.RemoveUnusedNodesPass()(model)
    return net, model


def unused(model: ir.Model) -> set[str]:
    return {name for name, value in model.graph.initializers.items() if not value.uses()}


def stripped(model: ir.Model, blocks: str = "*") -> ir.Model:
    before = unused(model)
    assert StripSkips(blocks=blocks)(model).modified
    assert unused(model) <= before
    return checked(model)


def residual_network(seed: int = 0) -> ir.Model:
    """Conv, BatchNormalization, Relu, a residual block, a global pool and a Gemm: a ResNet in little."""
    w = Weights(seed)
    w.normal("w1", 16, 3, 3, 3)
    w.normal("w2", 16, 16, 3, 3)
    w.normal("w3", 10, 16)
    w.normal("b3", 10)
    for name in ("n1", "n2"):
        w.batch_norm(name, 16)
    nodes = [
        "c1 = Conv<pads=[1,1,1,1]>(x, w1)",
        "n1 = BatchNormalization(c1, n1_g, n1_b, n1_m, n1_v)",
        "r1 = Relu(n1)",
        "c2 = Conv<pads=[1,1,1,1]>(r1, w2)",
        "n2 = BatchNormalization(c2, n2_g, n2_b, n2_m, n2_v)",
        "a = Add(n2, r1)",
        "r2 = Relu(a)",
        "p = GlobalAveragePool(r2)",
        "f = Flatten(p)",
        "y = Gemm<transB=1>(f, w3, b3)",
    ]
    return float_model("residual", (3, 8, 8), nodes, **w.constants)
