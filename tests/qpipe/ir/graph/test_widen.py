import numpy as np
import pytest

from qpipe.ir.graph.layers import group_layers
from qpipe.ir.graph.widen import widen
from support.networks import Network, checked
from support.run import run

FLOAT32 = 1e-6  # of numbers of size 1: sums of more channels may be in another order


@pytest.mark.parametrize("bias", [False, True])
def test_channels_of_zeros_change_nothing(bias: bool) -> None:
    """Through a normalization, a depthwise layer and a product of matrices; shapes are those of what runs."""
    net = Network(3, 5, 5)
    y = net.conv("x", 3, 4, bias=bias)
    y = net.op("Relu", y if bias else net.norm(y, 4))
    y = net.op("Relu", net.conv(y, 4, 4, groups=4, bias=bias))
    y = net.conv(y, 4, 6, bias=bias)
    model = net.model(y)
    x = net.inputs()
    (expected,) = run(model, x)
    layers = [layer for layer in group_layers(model.graph) if layer.is_weighted]
    widen(layers[0], 3, 0)
    widen(layers[1], 3, 3)
    widen(layers[2], 0, 3)
    model.graph.outputs.extend(layer.output for layer in layers[:2])
    found, *inner = run(checked(model), x)
    np.testing.assert_allclose(found, expected, atol=FLOAT32 * np.abs(expected).max(), rtol=0)
    for layer, tensor in zip(layers, inner, strict=False):
        assert tensor.shape[1] == 7
        assert layer.output.shape is not None
        assert layer.output.shape[1] == 7
        np.testing.assert_array_equal(tensor[:, 4:], 0)


@pytest.mark.parametrize("transposed", [False, True])
def test_matrices(transposed: bool) -> None:
    net = Network(5)
    model = net.model(net.gemm(net.op("Relu", net.gemm("x", 5, 4, transposed=transposed)), 4, 3, transposed=transposed))
    x = net.inputs()
    (expected,) = run(model, x)
    first, last = (layer for layer in group_layers(model.graph) if layer.is_weighted)
    widen(first, 2, 0)
    widen(last, 0, 2)
    np.testing.assert_allclose(run(checked(model), x)[0], expected, atol=FLOAT32 * np.abs(expected).max(), rtol=0)
