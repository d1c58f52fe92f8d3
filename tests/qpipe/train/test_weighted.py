"""The layer as it trains: quantized weights, an integer affine map, gradients straight through."""

import numpy as np
import pytest
import torch

from qpipe.ir.quantized.view import is_trainable, read_view
from qpipe.ir.quantized.write_weight import write_weight
from qpipe.ops.weight_layout import to_rows
from qpipe.settings.training import BatchNormMode
from qpipe.train.executor import Executor
from qpipe.train.weight_quantizer import WeightQuantizer
from qpipe.train.weighted import WeightedLayer
from support.networks import Network
from support.quantize import quantized


def layer_of(
    norm: bool = True, batch_norm: BatchNormMode = "running", raised: int = 0
) -> tuple[Executor, WeightedLayer]:
    """raised: how far above the format's own the exponents of weights are put in the file."""
    net = Network(3, 8, 8)
    x = net.conv("x", 3, 8, bias=True)
    x = net.op("Relu", net.norm(x, 8) if norm else x)
    model = quantized(net.model(net.head(x, 8)), net.inputs())
    for layer in filter(is_trainable, read_view(model).layers):
        weight, exponents = layer.weight, layer.weight.exponents + raised
        write_weight(layer, weight.format.storable(to_rows(layer.node, weight.array), exponents), exponents)
    executor = Executor(model, batch_norm=batch_norm)
    return executor, next(iter(executor.weighted()))


def grids(layer: WeightedLayer) -> WeightQuantizer:
    assert layer.quantizer is not None
    return layer.quantizer


@pytest.mark.parametrize("raised", [-1, 0, 2])
@pytest.mark.parametrize("norm", [True, False])
def test_training_and_evaluation_agree_before_rounding(norm: bool, raised: int) -> None:
    """Training's float32 output is evaluation's exact one, but for float32's own rounding, whoever chose the steps."""
    executor, layer = layer_of(norm, raised=raised)
    assert (grids(layer).raised is None) == (raised == 0)
    x = torch.from_numpy(np.random.default_rng(0).integers(-127, 128, (4, 3, 8, 8))) * grids(layer).source.scale
    with torch.no_grad():
        exact = executor.eval() and layer(x.float())
        trained = executor.train() and layer(x.float())
        folded = trained
        layer.tap(lambda product: product)
        apart = layer(x.float())
    for y in (trained, folded, apart):
        torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_the_weight_is_that_at_its_quantized_value() -> None:
    executor, layer = layer_of(norm=False)
    executor.train()
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    seed = torch.randn(4, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    layer(x).backward(seed)
    quantized_weight = layer.quantized_weight().detach().requires_grad_()
    torch.nn.functional.conv2d(x, quantized_weight, padding=1).backward(seed)
    torch.testing.assert_close(layer.weight.grad, quantized_weight.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.beta.grad, seed.sum((0, 2, 3)), rtol=1e-5, atol=1e-4)
    assert not torch.equal(layer.weight, quantized_weight)


def test_exponents_follow_the_weights_at_every_step() -> None:
    executor, layer = layer_of()
    before = grids(layer).exponent
    executor.train()
    with torch.no_grad():
        layer.weight *= 4
        layer(torch.zeros(1, 3, 8, 8))
    assert torch.equal(grids(layer).exponent, before + 2)
    with torch.no_grad():
        layer.weight /= 4
    assert torch.equal(grids(layer).exponent, before + 2)
    executor.eval()
    assert torch.equal(grids(layer).exponent, before)


def test_evaluation_starts_with_the_files_exponents() -> None:
    executor, layer = layer_of()
    assert not executor.training
    with torch.no_grad():
        grids(layer).exponent += 1  # as another tool may have chosen them
    executor.eval()
    assert is_trainable(layer.layer)
    assert torch.equal(grids(layer).exponent, torch.from_numpy(layer.layer.weight.exponents) + 1)


def test_quantizers_can_be_left_out() -> None:
    executor, _ = layer_of()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        on = executor(x)[0]
        off = executor.float_copy().eval()(x)[0]
    assert not torch.equal(on, off)
    torch.testing.assert_close(on, off.double(), rtol=0.1, atol=0.1)


def test_batch_statistics_move_the_running_ones() -> None:
    net = Network(3, 8, 8)
    y = net.head(net.op("Relu", net.norm(net.conv("x", 3, 8, bias=True), 8)), 8)
    executor = Executor(quantized(net.model(y), net.inputs()), batch_norm="batch").train()
    layer = next(iter(executor.weighted()))
    mean, variance = layer.mean.clone(), layer.variance.clone()
    executor(torch.from_numpy(net.inputs()))
    assert executor.input_quantizers
    x = executor.input_quantizers[0](torch.from_numpy(net.inputs()))
    product = torch.nn.functional.conv2d(x, layer.quantized_weight(), padding=1)
    batch = product.mean((0, 2, 3)) + layer.offset
    torch.testing.assert_close(layer.mean, 0.9 * mean + 0.1 * batch, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.variance, 0.9 * variance + 0.1 * product.var((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_a_weight_that_is_used_as_it_is_is_no_parameter_twice() -> None:
    """Unrounded for a while, as in stochastic precision, or for good: the state stays as it was."""
    executor, layer = layer_of()
    before = executor.state_dict().keys()
    for rounds in (False, True):
        layer.round_weights(rounds)
        executor.train()(torch.ones(1, 3, 8, 8))
        assert executor.state_dict().keys() == before
    executor = executor.float_copy()
    layer, before = next(iter(executor.weighted())), executor.state_dict().keys()
    executor(torch.ones(1, 3, 8, 8))
    assert executor.state_dict().keys() == before
    assert layer.weight_in_use() is layer.weight


def test_the_multiplier_is_rounded_on_batch_statistics() -> None:
    """The default mode of training: gamma errs by what rounding k to 8 bits makes it in the file."""
    net = Network(3, 8, 8)
    y = net.head(net.op("Relu", net.norm(net.conv("x", 3, 8), 8)), 8)
    layer = next(iter(Executor(quantized(net.model(y), net.inputs()), batch_norm="batch").train().weighted()))
    k = layer.gamma.detach().double() / (layer.variance.double() + layer.epsilon).sqrt()
    x = torch.from_numpy(np.random.default_rng(0).integers(-127, 128, (4, 3, 8, 8))) * grids(layer).source.scale
    product = torch.nn.functional.conv2d(x.float(), layer.quantized_weight(), padding=1).double()
    variance = product.var((0, 2, 3), unbiased=False)
    found = (layer(x.float()) - layer.beta[:, None, None]).double() * (variance + layer.epsilon).sqrt()[:, None, None]
    centred = product - product.mean((0, 2, 3), keepdim=True)
    gamma = (found * centred).sum((0, 2, 3)) / (centred * centred).sum((0, 2, 3))
    mantissa = torch.frexp(k.abs() * gamma / layer.gamma).mantissa * 2**8
    assert (mantissa - mantissa.round()).abs().max() < 0.01  # float32 sums of 8 bits and some
    unrounded = torch.frexp(k.abs()).mantissa * 2**8
    assert (unrounded - unrounded.round()).abs().max() > 0.1


def test_the_offset_is_rounded_on_batch_statistics() -> None:
    """Where a batch has the running statistics, training gives what the file does; 2-bit sums have large steps."""
    net = Network(3, 8, 8)
    x = net.op("Relu", net.norm(net.conv("x", 3, 8), 8))
    y = net.head(net.op("Relu", net.norm(net.conv(x, 8, 8), 8)), 8)
    model = quantized(net.model(y), net.inputs(), weight_bits=2, activation_bits=2)
    executor = Executor(model, batch_norm="batch").train()
    _, layer, _ = executor.weighted()
    x = (torch.from_numpy(np.random.default_rng(0).integers(0, 4, (4, 8, 8, 8))) * grids(layer).source.scale).float()
    for _ in range(3):  # a multiplier may move a weight's exponent, and with it the statistics
        product = torch.nn.functional.conv2d(x, layer.quantized_weight(), padding=1)
        layer.mean = product.mean((0, 2, 3)).detach()
        layer.variance = product.var((0, 2, 3), unbiased=False).detach()
        layer.refresh()
    with torch.no_grad():
        exact = executor.eval() and layer(x)
    layer.momentum = 0.0
    trained = executor.train() and layer(x)
    torch.testing.assert_close(trained.double(), exact, rtol=1e-4, atol=1e-4)  # float32's variance of 256 values


@pytest.mark.parametrize("norm", [True, False])
def test_who_watches_sees_operands_and_error_and_changes_nothing(norm: bool) -> None:
    """Without a BatchNormalization the ReLU overwrites what the product gave; the error is that before the ReLU."""
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    seen: dict[str, torch.Tensor] = {}

    def watch(x: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> None:
        seen.update(x=x.detach().clone(), w=w.detach().clone(), y=y.detach().clone())
        y.register_hook(lambda error: seen.update(error=error.clone()))

    def gradients(*, watched: bool) -> dict[str, torch.Tensor]:
        executor, layer = layer_of(norm, batch_norm="batch")
        if watched:
            layer.watch(watch)
        executor(x)
        assert not seen
        executor.train()(x)[0].square().sum().backward()
        return {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}

    alone, found = gradients(watched=False), gradients(watched=True)
    assert {"weight", "beta"} <= found.keys()
    assert all(torch.equal(alone[name], found[name]) for name in found)
    weight = seen["w"].requires_grad_()
    product = torch.nn.functional.conv2d(seen["x"], weight, padding=1)
    if norm:
        torch.testing.assert_close(product, seen["y"], rtol=1e-5, atol=1e-5)
    product.backward(seen["error"])
    torch.testing.assert_close(found["weight"], weight.grad, rtol=1e-5, atol=1e-4)
    if not norm:
        torch.testing.assert_close(found["beta"], seen["error"].sum((0, 2, 3)), rtol=1e-5, atol=1e-4)
