import numpy as np
import torch

from qpipe.ir.graph.affine import batch_norm_parameters, normalization_factor, read_affine
from qpipe.ir.graph.layers import group_layers
from support.networks import Network


def test_bias_and_norm_as_one_map() -> None:
    """y = k (conv - mean) + beta, against onnxruntime's own float result."""
    from support.run import run

    net = Network(3, 4, 4)
    model = net.model(net.norm(net.conv("x", 3, 8, (1, 1), bias=True), 8, np.float32([1, -2, 0, 1, 1, 3, 1, 1])))
    (layer,) = group_layers(model.graph)
    affine = read_affine(layer, 8)
    x = net.inputs()
    weight = layer.node.inputs[1].const_value.numpy()[:, :, 0, 0]  # type: ignore[union-attr]
    conv = np.einsum("nchw,oc->nohw", x.astype(np.float64), weight)
    shape = (1, 8, 1, 1)
    y = affine.k.reshape(shape) * (conv - affine.mean.reshape(shape)) + affine.beta.reshape(shape)
    np.testing.assert_allclose(y, run(model, x)[0], rtol=1e-4, atol=1e-5)  # float32 sums
    assert affine.k.dtype == np.float64


def test_a_bias_alone() -> None:
    for bias in (net_bias := np.float32([1, 2, 3]), np.float32([[1, 2, 3]]), np.float32(5)):
        net = Network(4)
        model = net.model(net.op("Gemm", "x", net.constant(net.floats(4, 3)), net.constant(bias)))
        affine = read_affine(group_layers(model.graph)[0], 3)
        assert affine.k.tolist() == [1, 1, 1]
        assert affine.mean.tolist() == [0, 0, 0]
        assert affine.beta.tolist() == (np.ones(3) * bias).reshape(-1).tolist()
    assert net_bias.shape == (3,)


def test_a_norm_that_stands_alone() -> None:
    net = Network(3, 4, 4)
    (layer,) = group_layers(net.model(net.norm("x", 3)).graph)
    k, beta, mean = batch_norm_parameters(layer)
    assert k.shape == beta.shape == mean.shape == (3,)
    assert read_affine(layer, 3).k.tolist() == [1, 1, 1]


def test_normalization_factor() -> None:
    assert normalization_factor(np.array([2.0]), np.array([3.0]), 1.0).tolist() == [1.0]


def test_the_factor_of_training_is_that_of_the_file() -> None:
    """To the bit: what is rounded to 8 bits could else be another integer."""
    rng = np.random.default_rng(0)
    gamma, variance = rng.standard_normal(4096), rng.uniform(1e-6, 5, 4096)
    found = normalization_factor(torch.from_numpy(gamma), torch.from_numpy(variance), 1e-5)
    np.testing.assert_array_equal(found.numpy(), normalization_factor(gamma, variance, 1e-5))
