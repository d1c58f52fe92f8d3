"""A trainable BatchNormalization where one was folded before export."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.normalize import normalize
from passes.quantizing.rescale_channels import RescaleChannels
from passes.quantizing.restore_batch_norm import EPSILON, RestoreBatchNorm
from qpipe.errors import DataError, ModelError
from qpipe.ir.files.load import load_model
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.nodes import require_constant, set_constant_input
from qpipe.train.executor import Executor
from support.networks import Network
from support.quantize import quantized
from support.run import assert_exact, evaluated, run
from support.training import train_steps

# Of the largest output: each layer rounds its product, k, mean and beta to float32, a few times 2**-24 each.
FLOAT32_PER_LAYER = 2e-6
# Of a statistic: the runtime's products are float32, whatever the sums over them are.
FLOAT32 = 1e-5


def batch_norms(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "BatchNormalization"]


def assert_same_function(before: list[np.ndarray], after: list[np.ndarray], layers: int) -> None:
    for a, b in zip(before, after, strict=True):
        assert np.ptp(a) > 0
        np.testing.assert_allclose(a, b, rtol=0, atol=FLOAT32_PER_LAYER * layers * np.abs(a).max())


def residual(channels: int = 6, *, groups: int = 1, kernel: int = 3, stride: int = 1, seed: int = 0) -> Network:
    """Three convolutions with a bias, an Add, a hidden Gemm and a last one; its last output is the network's."""
    net = Network(3, 8, 8, seed=seed)
    x = net.op("Relu", net.conv("x", 3, channels, bias=True), name="first")
    branch = net.op("Relu", net.conv(x, channels, channels, (kernel, kernel), bias=True, groups=groups))
    x = net.op("Relu", net.op("Add", net.conv(branch, channels, channels, bias=True), x))
    x = net.conv(x, channels, channels, bias=True, strides=[stride, stride])
    x = net.op("Flatten", net.op("GlobalAveragePool", net.op("Relu", x)))
    net.gemm(net.op("Relu", net.gemm(x, channels, 7)), 7, 5)
    return net


def last_output(net: Network) -> str:
    return net.nodes[-1].output[0]


def model_of(net: Network, *, seed: int = 0) -> ir.Model:
    """Normalized, its channels' weights as different in scale as folding makes them."""
    model, rng = net.model(last_output(net)), np.random.default_rng(seed)
    for node in model.graph:
        if node.op_type == "Conv":
            weight = require_constant(node, 1, "weight")
            scale = np.exp2(rng.uniform(-6, 2, (len(weight), 1, 1, 1)))
            set_constant_input(node, 1, (weight * scale).astype(np.float32))
    return model


def weights_of(model: ir.Model) -> list[np.ndarray]:
    return [require_constant(node, 1, "weight") for node in model.graph if node.op_type == "Conv"]


@settings(max_examples=40)
@given(
    size=st.sampled_from([(1, 1), (4, 1), (6, 2), (6, 6), (9, 3)]), kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3), seed=st.integers(0, 1000),
)  # fmt: skip
def test_the_function_stays(size: tuple[int, int], kernel: int, stride: int, seed: int) -> None:
    channels, groups = size
    net = residual(channels, groups=groups, kernel=kernel, stride=stride, seed=seed)
    model = model_of(net, seed=seed)
    x = net.inputs(16, seed=seed)
    before = run(model, x)
    assert RestoreBatchNorm(inputs=[net.inputs(12, seed=s) for s in (1, 2)])(model).modified
    ir.passes.common.CheckerPass()(model)
    assert len(batch_norms(model)) == 5
    if np.ptp(before[0]) > 0:
        assert_same_function(before, run(model, x), layers=6)


def test_statistics_are_those_of_the_product_over_all_batches() -> None:
    net = residual()
    model, reference = model_of(net), model_of(net)
    convs = [node for node in reference.graph if node.op_type == "Conv"]
    bias = [require_constant(node, 2, "bias").astype(np.float64) for node in convs]
    reference.graph.outputs[:] = [node.outputs[0] for node in convs]
    batches = [net.inputs(count, seed=count, scale=count / 10) for count in (5, 17, 8)]
    RestoreBatchNorm(inputs=batches)(model)
    products = run(reference, np.concatenate(batches))
    ratios = [after / before for after, before in zip(weights_of(model), weights_of(reference), strict=True)]
    for node, product, offset, every in zip(batch_norms(model), products, bias, ratios, strict=False):
        gamma, beta, mean, variance = (require_constant(node, i, "tensor").astype(np.float64) for i in (1, 2, 3, 4))
        ratio = every[:, 0, 0, 0]
        values = product.astype(np.float64)
        assert mean == pytest.approx((values.mean((0, 2, 3)) - offset) * ratio, rel=FLOAT32, abs=FLOAT32)
        assert variance == pytest.approx(values.var((0, 2, 3)) * ratio**2, rel=FLOAT32)
        assert gamma == pytest.approx(np.sqrt(variance + EPSILON) / ratio, rel=FLOAT32)
        assert beta == pytest.approx(offset + mean / ratio, rel=FLOAT32, abs=FLOAT32)


def test_weights_get_the_norm_that_networks_with_normalization_have() -> None:
    net = residual()
    model = model_of(net)
    before = weights_of(model)
    RestoreBatchNorm(inputs=[net.inputs()])(model)
    for weight, folded in zip(weights_of(model), before, strict=True):
        norm = np.sqrt(np.square(weight, dtype=np.float64).sum((1, 2, 3)))
        assert ((norm >= 1) & (norm < 2)).all()
        ratio = weight / folded
        # A power of two, so that no weight is rounded.
        assert (np.frexp(ratio)[0] == 0.5).all()
        assert (ratio == ratio[:, :1, :1, :1]).all()


def test_the_last_layer_and_what_was_not_folded_stay() -> None:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.conv("x", 3, 4))
    x = net.op("Relu", net.norm(net.conv(x, 4, 4, bias=True), 4))
    model = net.model(net.head(x, 4))

    def untouched():
        raise AssertionError("nothing to measure")
        yield

    assert not RestoreBatchNorm(inputs=untouched())(model).modified
    assert len(batch_norms(model)) == 1


def test_a_second_run_changes_nothing() -> None:
    net = residual()
    model = net.model(last_output(net))
    assert RestoreBatchNorm(inputs=[net.inputs()])(model).modified
    assert not RestoreBatchNorm(inputs=[net.inputs()])(model).modified


def test_names_and_outputs_stay_where_they_were() -> None:
    """A product that two nodes read and that leaves the graph; names that the new constants would have are taken."""
    net = Network(3, 8, 8)
    net.constant(np.zeros(3, np.float32), "conv_mean")
    bias = net.constant(net.floats(3), "shared")
    weight = net.constant(net.floats(3, 3, 1, 1))
    product = net.op("Conv", "x", weight, bias, name="conv")
    other = net.op("Conv", net.op("Relu", product), weight, bias, name="conv_batch_norm")
    joined = net.op("Relu", net.op("Add", product, other))
    model = net.model(product, net.head(joined, 3))
    names = [value.name for value in model.graph.outputs]
    x = net.inputs()
    before = run(model, x)
    assert RestoreBatchNorm(inputs=[x])(model).modified
    ir.passes.common.CheckerPass()(model)
    assert [value.name for value in model.graph.outputs] == names
    assert len({node.name for node in model.graph}) == len(model.graph)
    assert all(node.op_type != "Conv" or len(node.inputs) == 2 for node in model.graph)
    assert "shared" not in model.graph.initializers
    assert_same_function(before, run(model, x), layers=3)


def test_a_channel_that_never_varies() -> None:
    net = Network(3, 8, 8)
    weight, bias = net.floats(4, 3, 3, 3), net.floats(4)
    weight[1] = 0
    x = net.op("Relu", net.op("Conv", "x", net.constant(weight), net.constant(bias), name="conv"))
    model = net.model(net.head(x, 4))
    images = net.inputs()
    before = run(model, images)
    RestoreBatchNorm(inputs=[images])(model)
    gamma, beta, mean, variance = (require_constant(batch_norms(model)[0], i, "tensor") for i in (1, 2, 3, 4))
    assert (mean[1], variance[1], beta[1]) == (0, 0, bias[1])
    assert gamma[1] == np.float32(EPSILON**0.5)
    assert_same_function(before, run(model, images), layers=2)
    quantized(model, images, weight_bits=4, activation_bits=4)
    RescaleChannels()(model)
    assert_exact(model, images)
    executor = Executor(model, batch_norm="batch")
    train_steps(executor, images)
    assert np.isfinite(evaluated(executor, images)[0]).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_channels_can_be_rescaled_and_trained(bits: int) -> None:
    net = residual()
    model, images = net.model(last_output(net)), net.inputs(32)
    RestoreBatchNorm(inputs=[images])(model)
    quantized(model, images, weight_bits=bits, activation_bits=bits)
    assert RescaleChannels()(model).modified
    assert_exact(model, images)
    executor = Executor(model, batch_norm="batch")
    gammas = [layer.gamma.clone() for layer in executor.weighted() if layer.has_batch_norm]
    train_steps(executor, images)
    assert len(gammas) == 5
    trained = [layer.gamma for layer in executor.weighted() if layer.has_batch_norm]
    assert all(bool((a != b).any()) for a, b in zip(gammas, trained, strict=True))


def test_four_bits_come_nearer_to_the_float_network() -> None:
    errors = []
    for restore in (False, True):
        net = residual(16, seed=3)
        model, images = net.model(last_output(net)), net.inputs(64)
        expected = run(model, images)[0]
        if restore:
            RestoreBatchNorm(inputs=[images])(model)
        quantized(model, images, weight_bits=4, activation_bits=8)
        assert RescaleChannels()(model).modified == restore
        errors.append(float(np.square(evaluated(Executor(model), images)[0] - expected).mean()))
    assert errors[1] < errors[0]


def test_bad_inputs() -> None:
    net = residual()
    model = net.model(last_output(net))
    with pytest.raises(DataError, match="no batch, expected at least one"):
        RestoreBatchNorm(inputs=[])(model)
    with pytest.raises(DataError, match="NaN or infinite"):
        RestoreBatchNorm(inputs=[net.inputs() * np.float32(np.nan)])(model)
    assert not batch_norms(model)
    with pytest.raises(ModelError, match=r"tensor 'conv\d+_y' overflows float32"):
        RestoreBatchNorm(inputs=[np.sign(net.inputs()) * np.float32(3e38)])(model)


def test_the_real_folded_network(shared: Path) -> None:
    """ResNet-20: all its 19 convolutions; the last layer stays."""
    model = load_model(shared / "models" / "resnet20_cifar10_folded.onnx")
    normalize(model)
    net = Network(3, 32, 32)
    images = net.inputs(16)
    before = run(model, images)
    weighted = [layer for layer in plan_quantization(model.graph).layers if layer.is_weighted]
    RestoreBatchNorm(inputs=[net.inputs(16, seed=2)])(model)
    assert len(batch_norms(model)) == len(weighted) - 1 == 19
    assert_same_function(before, run(model, images), layers=len(weighted))
