"""AG: H by hand, its gradients in the shared weights, and nothing of it in the network or its file."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qpipe.errors import ModelError
from qpipe.ops import OPS
from qpipe.train.companions.auxiliary import AuxiliaryGradient
from qpipe.train.companions.blocks import blocks_of
from qpipe.train.companions.make import make_companions
from qpipe.train.executor import Executor
from qpipe.train.loop import train
from qpipe.train.straight_through import fake_quantize, straight_through
from qpipe.train.weighted import WeightedLayer
from qpipe.train.write_back import write_back
from support.networks import Network
from support.quantize import quantized
from support.run import assert_exact
from support.training import RUN, SUMMED_OTHERWISE, batch, cross_entropy, images, replace
from support.zoo.trainable import IMAGE_SHAPE, in_training, logits, plain_qdq, residual_qdq, weighted

LAMBDA = 0.5


def auxiliary(
    model: ir.Model, executor: Executor, *, weight: float = LAMBDA, layerwise: bool = False
) -> AuxiliaryGradient:
    blocks = blocks_of(model, executor)
    return AuxiliaryGradient(executor, blocks, weight=weight, layerwise=layerwise, image_shape=IMAGE_SHAPE)


def by_hand(
    module: AuxiliaryGradient, weights: Sequence[torch.Tensor], bias: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """H's logits for the plain network: equation 1, with its BatchNormalizations as they are, one line after another.

    weights: float leaves, quantized straight through to what the network uses; bias: of the last layer.
    """
    twin = module.twin
    layers = weighted(twin)
    quantized = [straight_through(w, layer.weight_in_use().detach()) for w, layer in zip(weights, layers, strict=True)]

    def grid(position: int, y: torch.Tensor) -> torch.Tensor:
        quantizer = twin.steps[position].quantizer
        assert quantizer is not None
        return fake_quantize(y, quantizer.grid)

    def norm(layer: WeightedLayer | nn.BatchNorm2d, y: torch.Tensor) -> torch.Tensor:
        gamma, beta = (layer.gamma, layer.beta) if isinstance(layer, WeightedLayer) else (layer.weight, layer.bias)
        return F.batch_norm(y, None, None, gamma, beta, True, 0.0, 1e-5)

    def pointwise(pair: nn.Sequential, y: torch.Tensor) -> torch.Tensor:
        assert isinstance(pair[1], nn.BatchNorm2d)
        return norm(pair[1], F.conv2d(y, pair[0].weight))

    def conv(index: int, y: torch.Tensor, stride: int = 1) -> torch.Tensor:
        return F.conv2d(y, quantized[index], stride=stride, padding=1)

    first, second = module.adaptors
    stem = norm(layers[0], conv(0, fake_quantize(x, twin.input_quantizers[0].grid)))
    o1 = conv(1, grid(0, stem))
    o2 = conv(2, grid(1, norm(layers[1], o1)))
    o3 = conv(3, grid(2, norm(layers[2], o2)), stride=2)
    o4 = conv(4, grid(3, norm(layers[3], o3)))
    g0 = F.relu(stem)
    g1 = pointwise(first.adapt, o2) + g0
    g2 = pointwise(second.adapt, o4) + pointwise(second.project, F.avg_pool2d(g1, 2))
    pooled = grid(5, F.relu(norm(module.norm, g2)).mean((2, 3)))
    return F.linear(pooled, quantized[5], bias)


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_the_gradients_are_those_of_algorithm_1(weight: float) -> None:
    """(dL1 + lambda dL2) / (1 + lambda) of what is shared; dL1 and lambda dL2, unscaled, of what is not."""
    x, labels = batch()
    alone = in_training(plain_qdq())
    F.cross_entropy(logits(alone, x), labels).backward()  # type: ignore[no-untyped-call]

    model = plain_qdq()
    network = in_training(model)
    module = auxiliary(model, network, weight=weight)
    loss = F.cross_entropy(logits(network, x), labels)
    extra = module.extra_loss(cross_entropy, labels, x)
    (loss + extra).backward()  # type: ignore[no-untyped-call]

    layers = weighted(network)
    leaves = [layer.weight.detach().clone().requires_grad_() for layer in layers]
    bias = layers[-1].beta.detach().clone().requires_grad_()
    expected = F.cross_entropy(by_hand(module, leaves, bias, x), labels)
    torch.testing.assert_close(extra, weight * expected, rtol=SUMMED_OTHERWISE, atol=0)
    own = [p for name, p in module.named_parameters() if all(p is not shared for shared in network.parameters())]
    used = torch.autograd.grad(expected, [*leaves, bias, *own], allow_unused=True)
    module.end_backward()

    of_f = [*(layer.weight.grad for layer in weighted(alone)), weighted(alone)[-1].beta.grad]
    shared = [*(layer.weight for layer in layers), layers[-1].beta]
    for parameter, first, second in zip(shared, of_f, used[: len(shared)], strict=True):
        assert second is not None
        assert second.abs().max() > 0
        mean = (first + weight * second) / (1 + weight)
        _assert_gradient(parameter.grad, mean)
    for name, parameter in network.named_parameters():
        if all(parameter is not one for one in shared):
            assert torch.equal(parameter.grad, dict(alone.named_parameters())[name].grad), name
    unread = 0
    for parameter, second in zip(own, used[len(shared) :], strict=True):
        unread += second is None
        if second is None:
            assert parameter.grad is None or not parameter.grad.any()
        else:
            _assert_gradient(parameter.grad, weight * second)
    # The BatchNormalization of the last convolution: what H reads of it comes before.
    assert unread == 2


def _assert_gradient(found: torch.Tensor | None, expected: torch.Tensor) -> None:
    assert found is not None
    atol = SUMMED_OTHERWISE * float(expected.abs().max()) + 1e-7  # behind a BatchNormalization sums cancel to noise
    torch.testing.assert_close(found, expected, rtol=SUMMED_OTHERWISE, atol=atol)


@pytest.mark.parametrize("make", [plain_qdq, residual_qdq])
@pytest.mark.parametrize("layerwise", [False, True])
def test_one_adaptor_a_branch(make: Any, layerwise: bool) -> None:
    """At the end of each block, or of each convolution in one; a projection where the shape changes."""
    model = make()
    network = in_training(model)
    module = auxiliary(model, network, layerwise=layerwise)
    assert [adaptor.project is not None for adaptor in module.adaptors] == (
        [False, False, True, False] if layerwise else [False, True]
    )
    sizes = [(adaptor.adapt[0].weight.shape[0], adaptor.size) for adaptor in module.adaptors]
    inner = [(8, (8, 8)), (16, (4, 4))]
    assert sizes == ([size for size in inner for _ in range(2)] if layerwise else inner)
    x, labels = batch()
    network(x)
    extra = module.extra_loss(cross_entropy, labels, x)
    extra.backward()
    assert all(adaptor.adapt[0].weight.grad.abs().max() > 0 for adaptor in module.adaptors)
    # Each forward taps anew.
    network(x)
    assert torch.equal(module.extra_loss(cross_entropy, labels, x), extra)


def test_the_chain_starts_as_the_stream_itself() -> None:
    """phi_p is the identity with the block's own gamma and beta; a projection, of the channels that both sides have."""
    model = plain_qdq()
    network = in_training(model)
    module = auxiliary(model, network)
    for adaptor, layer in zip(module.adaptors, [weighted(network)[2], weighted(network)[4]], strict=True):
        channels = len(layer.gamma)
        assert torch.equal(adaptor.adapt[0].weight.reshape(channels, channels), torch.eye(channels))
        assert torch.equal(adaptor.adapt[1].weight, layer.gamma)
        assert torch.equal(adaptor.adapt[1].bias, layer.beta)
    projection = module.adaptors[1].project[0].weight
    assert torch.equal(projection.reshape(16, 8), torch.eye(16, 8))


@pytest.mark.parametrize("make", [plain_qdq, residual_qdq])
@pytest.mark.parametrize("mode", ["running", "batch"])
def test_the_network_does_not_notice(make: Any, mode: Any) -> None:
    """Outputs and statistics of F are bitwise the same with H in the same step: no g enters its convolutions."""
    x, labels = batch()
    alone = in_training(make(), mode)
    expected = [logits(alone, x) for _ in range(2)]
    model = make()
    network = in_training(model, mode)
    module = auxiliary(model, network)
    for step in range(2):
        assert torch.equal(logits(network, x), expected[step])
        module.extra_loss(cross_entropy, labels, x)
    for name, tensor in alone.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_a_tap_sees_the_product_before_its_batch_norm(mode: Any) -> None:
    """O_p: whatever the statistics are, the BatchNormalization is not in it."""
    executor = in_training(plain_qdq(), mode)
    layer = weighted(executor)[2]
    seen: list[torch.Tensor] = []

    def see(y: torch.Tensor) -> torch.Tensor:
        seen.append(y)
        return y

    executor.steps[2].tap(see)
    reads: list[torch.Tensor] = []
    layer.register_forward_pre_hook(lambda module, args: reads.append(args[0].detach().clone()))
    x, _ = batch()
    executor(x)
    expected = OPS["Conv"].torch(layer.layer.node)(reads[0], layer.weight_in_use())
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-5)  # a sum of 72 products in float32


def written(method: Any, make: Any, **changes: Any) -> tuple[ir.Model, Executor]:
    model = make()
    executor = Executor(model, batch_norm="batch")
    settings = replace(RUN, method=method, **changes)
    companions = make_companions(executor, model, model, settings, IMAGE_SHAPE)
    assert len(companions) == (method == "ag") + settings.ssp
    train(executor, images(), settings, companions=companions)
    write_back(executor)
    return model, executor


@pytest.mark.slow
@pytest.mark.parametrize(("make", "layerwise"), [(plain_qdq, False), (residual_qdq, True)])
def test_nothing_of_it_is_in_the_file(make: Any, layerwise: bool) -> None:
    found, executor = written("ag", make, layerwise=layerwise)
    expected, _ = written("faq", make)
    assert [(n.op_type, n.name, [v.name for v in n.outputs]) for n in found.graph] == [
        (n.op_type, n.name, [v.name for v in n.outputs]) for n in expected.graph
    ]
    shapes = [{name: v.shape for name, v in model.graph.initializers.items()} for model in (found, expected)]
    assert shapes[0] == shapes[1]
    moved = [
        name
        for name, value in found.graph.initializers.items()
        if not np.array_equal(value.const_value.numpy(), expected.graph.initializers[name].const_value.numpy())
    ]
    assert sum("weight" in name for name in moved) >= 6
    assert_exact(found, batch()[0].numpy(), executor)
    assert_exact(found, batch()[0].numpy())


def from_the_input(blocks: int) -> ir.Model:
    """The first block reads the network's input."""
    net, x = Network(3, 8, 8), "x"
    for _ in range(blocks):
        x = net.op("Relu", net.op("Add", net.conv(net.op("Relu", net.conv(x, 3, 8)), 8, 3), x))
    return quantized(net.model(net.head(x, 3)), net.inputs())


def test_blocks_that_read_the_input_alone_are_refused() -> None:
    model = from_the_input(1)
    with pytest.raises(ModelError, match=r"^method: 'ag', but no block has a layer before it, expected"):
        auxiliary(model, in_training(model))


def test_the_chain_starts_at_the_first_block_that_has_a_layer_before_it() -> None:
    model = from_the_input(3)
    module = auxiliary(model, in_training(model))
    assert len(module.adaptors) == 2


def test_what_a_branch_would_start_at_is_an_image() -> None:
    net = Network(3, 8, 8)
    x = net.op("Flatten", net.op("GlobalAveragePool", net.op("Relu", net.conv("x", 3, 8))))
    y = net.op("Relu", net.gemm(x, 8, 8))
    x = net.op("Relu", net.op("Add", net.gemm(y, 8, 8), x))
    model = quantized(net.model(net.gemm(x, 8, 4)), net.inputs())
    with pytest.raises(ModelError, match=r"^method: 'ag', but .* gives 2 dimensions, expected \[N, C, H, W\]$"):
        auxiliary(model, in_training(model))


def test_a_network_without_blocks_is_refused() -> None:
    net = Network(3, 8, 8)
    model = quantized(net.model(net.head(net.op("Relu", net.conv("x", 3, 8)), 8)), net.inputs())
    with pytest.raises(ModelError, match="no residual blocks, and none were stripped"):
        auxiliary(model, in_training(model))
