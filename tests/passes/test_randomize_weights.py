import numpy as np
import onnx_ir as ir
import pytest

from passes.randomize_weights import RandomizeWeights
from qpipe.ir.graph.affine import batch_norm_parameters
from qpipe.ir.graph.layers import group_layers
from qpipe.nodes import constant_input
from support.networks import Network


def network() -> ir.Model:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.norm(net.conv("x", 3, 32, bias=True), 32))
    x = net.norm(net.op("AveragePool", net.conv(x, 32, 32, groups=4), kernel_shape=[2, 2]), 32)
    return net.model(net.gemm(net.op("Flatten", net.op("GlobalAveragePool", x)), 32, 5, transposed=False))


def randomized(seed: int = 0) -> ir.Model:
    model = network()
    assert RandomizeWeights(seed=seed)(model).modified
    ir.passes.common.CheckerPass()(model)
    return model


def weights(model: ir.Model) -> list[tuple[np.ndarray, np.ndarray | None]]:
    layers = [layer for layer in group_layers(model.graph) if layer.is_weighted]
    return [(np.asarray(constant_input(layer.node, 1)), constant_input(layer.node, 2)) for layer in layers]


def test_weights_and_biases_are_uniform_in_what_one_output_sums_over() -> None:
    """PyTorch's default: `1 / sqrt(fan_in)` is the bound of both."""
    for (weight, bias), (old, _), fan_in in zip(
        weights(randomized()), weights(network()), (27, 8 * 9, 32), strict=True
    ):
        bound = fan_in**-0.5
        assert weight.shape == old.shape
        assert np.abs(weight).max() <= bound
        assert np.abs(weight).max() > 0.9 * bound
        # A uniform distribution of so many values: within a tenth of its deviation.
        assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert bias is None or 0 < np.abs(bias).max() <= bound


def test_batch_normalization_does_nothing() -> None:
    found = 0
    for layer in group_layers(randomized().graph):
        if layer.batch_norm is not None or layer.op_type == "BatchNormalization":
            k, beta, mean = batch_norm_parameters(layer)
            np.testing.assert_allclose(k, 1, rtol=1e-5)  # its epsilon
            assert not beta.any()
            assert not mean.any()
            found += 1
    assert found == 2


def test_one_seed_one_network() -> None:
    first, second, third = (weights(randomized(seed))[0][0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


def test_constants_that_are_shared_are_told_apart() -> None:
    net = Network(3, 8, 8)
    shared = net.constant(np.ones((3, 3, 1, 1), np.float32))
    model = net.model(net.op("Conv", net.op("Relu", net.op("Conv", "x", shared)), shared))
    RandomizeWeights()(model)
    (first, _), (second, _) = weights(model)
    assert not np.array_equal(first, second)


def test_without_layers_nothing_changes() -> None:
    net = Network(3, 8, 8)
    assert not RandomizeWeights()(net.model(net.op("Relu", "x"))).modified
