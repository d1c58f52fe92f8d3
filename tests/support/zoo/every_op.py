"""Small networks of every op that the executor knows."""

from collections.abc import Callable

import numpy as np

from support.networks import Network

Build = Callable[[Network], tuple[str, ...] | str]


def conv_norm_relu(net: Network) -> str:
    x = net.op("Relu", net.norm(net.conv("x", 3, 8), 8))
    x = net.op("Relu", net.norm(net.conv(x, 8, 8, bias=True, strides=[2, 2]), 8))
    return net.head(x, 8)


def residual(net: Network) -> str:
    a = net.op("Relu", net.norm(net.conv("x", 3, 8), 8))
    b = net.norm(net.conv(net.op("Relu", net.conv(a, 8, 8, bias=True)), 8, 8), 8)
    x = net.op("Relu", net.op("Add", b, a))
    skip = net.norm(net.conv(x, 8, 8, (1, 1), strides=[2, 2]), 8)
    x = net.op("Relu", net.op("Add", net.conv(x, 8, 8, strides=[2, 2]), skip))
    return net.head(x, 8)


def separable(net: Network) -> str:
    x = net.relu6(net.norm(net.conv("x", 3, 8), 8))
    x = net.relu6(net.norm(net.conv(x, 8, 8, groups=8), 8), 1.3)
    x = net.norm(net.conv(x, 8, 12, (1, 1)), 12)
    x = net.op("Relu", net.norm(net.conv(x, 12, 12, groups=3, dilations=[2, 2], pads=[2, 1, 2, 3]), 12))
    return net.head(x, 12)


def preactivation(net: Network) -> str:
    signs = np.array([1, -1, 0, 0.5, -2, 1, 1, -0.001], np.float32)
    x = net.conv("x", 3, 8)
    y = net.conv(net.op("Relu", net.norm(x, 8, signs)), 8, 8)
    x = net.op("Add", x, y)
    return net.head(net.op("Relu", net.norm(x, 8)), 8)


def negative_and_zero_multipliers(net: Network) -> str:
    x = net.norm(net.conv("x", 3, 8, bias=True), 8, np.float32([1, -1, 0, -0.0, 0.01, -30, 1e-30, 1]))
    return net.head(net.op("Relu", x), 8)


def lone_activations(net: Network) -> str:
    x = net.conv("x", 3, 8, bias=True)
    y = net.op("Relu", net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))
    z = net.relu6(net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 0.7)
    x = net.op("Add", net.conv(y, 8, 8), net.conv(z, 8, 8))
    return net.head(x, 8)


def concat(net: Network) -> str:
    a = net.op("Relu", net.norm(net.conv("x", 3, 4), 4, np.full(4, 5, np.float32)))
    b = net.norm(net.conv("x", 3, 4, (1, 1)), 4, np.full(4, 0.1, np.float32))
    c = net.op("Concat", a, b, "x", a, axis=1)
    d = net.op("Concat", net.op("MaxPool", c, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), net.conv(c, 15, 3), axis=-3)
    return net.head(net.op("Relu", net.conv(d, 18, 8)), 8)


def pools(net: Network) -> str:
    x = net.op("Relu", net.conv("x", 3, 8))
    x = net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
    x = net.conv(x, 8, 8)
    x = net.op("AveragePool", x, kernel_shape=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1)
    x = net.op("Relu", net.conv(x, 8, 8))
    return net.gemm(net.op("Flatten", net.op("ReduceMean", x, net.constant(np.array([2, 3])))), 8, 5)


def matrices(net: Network) -> str:
    x = net.op("Relu", net.gemm(net.op("Flatten", "x"), 3 * 64, 24, transposed=False))
    x = net.op("Relu", net.gemm(x, 24, 16, bias=False))
    x = net.op("Relu", net.op("MatMul", x, net.constant(net.floats(16, 16, scale=0.25))))
    x = net.norm(net.op("MatMul", x, net.constant(net.floats(16, 16, scale=0.25))), 16)
    x = net.norm(net.op("Relu", x), 16)
    return net.op("MatMul", x, net.constant(net.floats(16, 5)))


def carriers(net: Network) -> str:
    x = net.op("Pad", "x", net.constant(np.array([1, 1, 0, 2])), "", net.constant(np.array([-1, 2])))
    x = net.op("Relu", net.conv(x, 3, 8))
    ints = [net.constant(np.array([v])) for v in (-1, -(2**31), -1, -2)]
    x = net.op("Slice", x, ints[0], ints[1], ints[2], ints[3])
    x = net.op("Transpose", net.conv(x, 8, 4), perm=[0, 2, 1, 3])
    x = net.op("Reshape", x, net.constant(np.array([0, -1])))
    return net.gemm(net.op("Dropout", x), 11 * 4 * 5, 5)


def several_outputs(net: Network) -> tuple[str, ...]:
    x = net.op("Relu", net.norm(net.conv("x", 3, 8), 8))
    features = net.op("GlobalAveragePool", x)
    logits = net.gemm(net.op("Flatten", features), 8, 5)
    return logits, x, net.conv(x, 8, 4, (1, 1)), features


def no_linear_head(net: Network) -> str:
    x = net.op("Relu", net.norm(net.conv("x", 3, 8), 8))
    return net.op("Flatten", net.op("GlobalAveragePool", net.op("Relu", net.conv(x, 8, 5, (1, 1), bias=True))))


def used_twice(net: Network) -> str:
    x = net.op("Relu", net.conv("x", 3, 8))
    x = net.op("Add", x, x)
    x = net.op("Concat", x, x, axis=1)
    return net.head(net.op("Relu", net.conv(x, 16, 8)), 8)


NETWORKS: list[Build] = [
    conv_norm_relu, residual, separable, preactivation, negative_and_zero_multipliers, lone_activations, concat, pools,
    matrices, carriers, several_outputs, no_linear_head, used_twice,
]  # fmt: skip


def build(network: Build, seed: int = 0) -> tuple[Network, tuple[str, ...]]:
    net = Network(3, 8, 8, seed=seed)
    outputs = network(net)
    return net, (outputs,) if isinstance(outputs, str) else outputs
