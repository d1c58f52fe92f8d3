"""Equation 3: which blocks have a classifier, what is added, and whom its gradient reaches."""

from collections.abc import Callable
from fractions import Fraction

import onnx_ir as ir
import pytest
import torch
from torch.nn import functional as F

from qpipe.errors import ModelError
from qpipe.ir.graph.stripped_blocks import stripped_blocks
from qpipe.train.companions.additional_losses import AdditionalLosses
from qpipe.train.companions.blocks import blocks_of
from qpipe.train.companions.fade import FadingSkips
from qpipe.train.executor import Executor
from support.networks import Network
from support.quantize import quantized
from support.run import assert_exact
from support.training import cross_entropy
from support.zoo.residual import made, norm_conv, pre_activation, stripped
from support.zoo.trainable import two_blocks, two_plain_blocks

SHAPE = (3, 8, 8)
ALPHA = 0.01
INPUTS = torch.from_numpy(Network(*SHAPE).inputs())
LABELS = torch.arange(len(INPUTS)) % 4

both = pytest.mark.parametrize("build", [two_blocks, two_plain_blocks])


def beside(model: ir.Model, *, seed: int = 0) -> tuple[Executor, AdditionalLosses]:
    network = Executor(model, batch_norm="batch")
    losses = AdditionalLosses(
        network, blocks_of(model, network), weight=ALPHA, image_shape=SHAPE, seed=seed, loss=cross_entropy
    )
    assert not network.training
    return network, losses


@both
def test_downsampling_blocks_have_a_classifier(build: Callable[[], ir.Model]) -> None:
    model = build()
    network, losses = beside(model)
    assert losses._ends == [blocks_of(model, network)[1].end]
    (classify,) = losses.classifiers
    assert classify.weight.shape == (4, 16)
    assert {name for name, _ in losses.named_parameters()} == {f"classifiers.0.{name}" for name in ("weight", "bias")}


def test_several_of_them() -> None:
    net = Network(*SHAPE)
    x = net.op("Relu", norm_conv(net, "x", 3, 8))
    for number, out in enumerate((8, 16), start=1):
        y = norm_conv(net, net.op("Relu", norm_conv(net, x, 8, out, strides=[2, 2])), out, out)
        skip = norm_conv(net, x, 8, out, 1, strides=[2, 2])
        x = net.op("Relu", net.op("Add", y, skip, name=f"add{number}"))
    network, losses = beside(quantized(net.model(net.head(x, 16)), net.inputs()))
    assert [linear.in_features for linear in losses.classifiers] == [8, 16]
    network.train()(INPUTS)
    pairs = zip(losses._ends, losses.classifiers, strict=True)
    parts = [F.cross_entropy(classify(end.activated.mean((2, 3))), LABELS) for end, classify in pairs]
    assert torch.equal(losses.extra_loss(cross_entropy, LABELS, INPUTS), ALPHA * (parts[0] + parts[1]))


@both
def test_what_is_added(build: Callable[[], ir.Model]) -> None:
    network, losses = beside(build())
    network.train()(INPUTS)
    (end,), (classify,) = losses._ends, losses.classifiers
    value = end.unquantized
    assert value.min() < 0
    expected = F.cross_entropy(F.linear(value.relu().mean((2, 3)), classify.weight, classify.bias), LABELS)

    def fails(*told: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the loss is the labels' cross-entropy, whatever the network's own is")

    torch.testing.assert_close(losses.extra_loss(fails, LABELS, INPUTS), ALPHA * expected)


@both
def test_gradients_reach_what_lies_before_the_block_and_nothing_else(build: Callable[[], ir.Model]) -> None:
    network, losses = beside(build())
    network.train()(INPUTS)
    losses.extra_loss(cross_entropy, LABELS, INPUTS).backward()
    (end,) = losses._ends
    for step in network.products():
        reached = [p.grad is not None and bool(p.grad.any()) for p in step.module.parameters() if p.requires_grad]
        assert reached == [step.position <= end.position] * len(reached), step.layer.name
    assert all(p.grad is not None and p.grad.any() for p in losses.parameters())


@both
def test_the_network_computes_as_without(build: Callable[[], ir.Model]) -> None:
    """Bit for bit: in training, gradients too, and in evaluation."""
    alone = Executor(build(), batch_norm="batch").train()
    network, _ = beside(build())
    for executor in (alone, network.train()):
        cross_entropy(executor(INPUTS)[0], LABELS, INPUTS).backward()
    for (name, parameter), other in zip(network.named_parameters(), alone.parameters(), strict=True):
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, other.grad), name  # type: ignore[arg-type]
    assert torch.equal(network.eval()(INPUTS)[0], alone.eval()(INPUTS)[0])
    assert network.state_dict().keys() == alone.state_dict().keys()
    assert not any("classifiers" in name for name in network.state_dict())


def test_evaluation_is_the_files() -> None:
    model = two_blocks()
    network, _ = beside(model)
    assert_exact(model, INPUTS.numpy(), network)


def test_the_seed_draws_the_classifiers_and_nothing_else() -> None:
    before = torch.get_rng_state()
    first, second, third = (beside(two_blocks(), seed=seed)[1].state_dict() for seed in (0, 0, 1))
    for name, value in first.items():
        assert torch.equal(value, second[name])
        assert value.abs().max() <= 0.25  # 1 / sqrt(16)
        assert torch.equal(value, third[name]) == name.endswith("bias")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("fades_first", [False, True])
def test_it_goes_together_with_fading_skips(fades_first: bool) -> None:
    """The first block's end is kept for both: it is what the second block's skip starts from."""
    residual = two_blocks()
    plain = stripped(residual.clone())
    network = Executor(plain, batch_norm="batch")
    blocks, names = blocks_of(plain, network), [block.name for block in stripped_blocks(plain)]

    def fade() -> FadingSkips:
        return FadingSkips([network], residual, names, fraction=Fraction(1))

    skips = fade() if fades_first else None
    losses = AdditionalLosses(network, blocks, weight=ALPHA, image_shape=SHAPE, seed=0, loss=cross_entropy)
    skips = skips or fade()
    skips.begin_update(Fraction(0), 0)
    network.train()(INPUTS)
    faded = losses.extra_loss(cross_entropy, LABELS, INPUTS)
    state = network.state_dict()
    # The same network without any skips, from the statistics that it has by now.
    without = Executor(plain, batch_norm="batch")
    expected = AdditionalLosses(
        without, blocks_of(plain, without), weight=ALPHA, image_shape=SHAPE, seed=0, loss=cross_entropy
    )
    without.load_state_dict(state)
    skips.begin_update(Fraction(1), 1)
    for executor in (network, without.train()):
        executor(INPUTS)
    gone = losses.extra_loss(cross_entropy, LABELS, INPUTS)
    assert torch.equal(gone, expected.extra_loss(cross_entropy, LABELS, INPUTS))
    assert not torch.equal(gone, faded)


def test_bfloat16() -> None:
    model = two_blocks()
    network = Executor(model, batch_norm="batch", precision="bf16")
    losses = AdditionalLosses(
        network, blocks_of(model, network), weight=ALPHA, image_shape=SHAPE, seed=0, loss=cross_entropy
    )
    network.train()(INPUTS)
    extra = losses.extra_loss(cross_entropy, LABELS, INPUTS)
    assert extra.dtype == torch.float32
    extra.backward()  # type: ignore[no-untyped-call]


def test_no_block_makes_its_image_smaller() -> None:
    net, model = made(pre_activation)
    with pytest.raises(ModelError, match=r"^additional_losses: no residual block makes its image smaller, expected"):
        beside(quantized(model, net.inputs()))


def test_no_images() -> None:
    net = Network(*SHAPE)
    x = net.op("Relu", net.head(net.op("Relu", norm_conv(net, "x", 3, 8)), 8, 6))
    y = net.gemm(net.op("Relu", net.gemm(x, 6, 6)), 6, 6)
    model = net.model(net.gemm(net.op("Relu", net.op("Add", y, x, name="add")), 6, 5))
    with pytest.raises(ModelError, match=r"^additional losses need images \[N, C, H, W\] between the blocks$"):
        beside(quantized(model, net.inputs()))
