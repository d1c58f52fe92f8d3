"""Skips that fade: the residual network at first, the plain one at the end, and nothing of them in the file."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import onnx_ir as ir
import pytest
import torch

from qpipe.ir.graph.stripped_blocks import stripped_blocks
from qpipe.settings.training import BatchNormMode
from qpipe.train.companions.blocks import blocks_of
from qpipe.train.companions.fade import FadingSkips
from qpipe.train.companions.make import make_companions
from qpipe.train.executor import Executor
from qpipe.train.loop import train
from qpipe.train.write_back import write_back
from support.networks import Network
from support.quantize import quantized
from support.run import assert_exact
from support.training import RUN, SUMMED_OTHERWISE, batch, images, replace
from support.zoo.residual import stripped
from support.zoo.trainable import CLASSES, IMAGE_SHAPE, in_training, plain_qdq, residual_qdq, weighted

FRACTION = Fraction(1, 2)


def made(*more: Callable[[Executor], Executor], **options: Any) -> tuple[FadingSkips, Executor, ir.Model]:
    """The companion, the plain network in training, and the residual one's file."""
    residual = residual_qdq(**options)
    plain = stripped(residual.clone())
    executor = in_training(plain)
    networks = [executor, *(make(executor) for make in more)]
    return (
        FadingSkips(networks, residual, [block.name for block in stripped_blocks(plain)], fraction=FRACTION),
        executor,
        residual,
    )


@pytest.mark.parametrize("options", [{}, {"activation_bits": 8, "weight_bits": 8}, {"skip_bits": 8}])
def test_at_first_it_is_the_residual_network(options: dict[str, Any]) -> None:
    """Bitwise, where quantizers don't differ.

    The plain network has none between a block's last convolution and the Add, and rounds that convolution's weights and
    multiplier for the grid behind it; so those of branches are off here, and all weights are before their rounding.
    """
    module, executor, residual = made(**options)
    expected = in_training(residual)
    # The companion has a residual network of its own.
    for network in {expected, *(skip._network for skip in module._skips)}:
        for step in network.steps:
            is_branch = step.layer.op_type == "Conv" and step.layer.activation is None
            # A wide skip is rounded twice on the way to the convolution that reads it.
            is_wide = "skip_bits" in options and step.position == 0
            if step.quantizer is not None:
                step.quantizer.round_in_training(not is_branch and not is_wide)
    for layer in (*weighted(executor), *weighted(expected), *module.layers):
        layer.round_weights(False)
    x, _ = batch()
    module.begin_update(Fraction(0), 0)
    assert torch.equal(executor(x)[0], expected(x)[0])
    # Statistics were the same too, layer by layer.
    main = [
        layer for layer in weighted(expected) if layer.layer.name in {other.layer.name for other in weighted(executor)}
    ]
    assert len(main) == 6
    for first, second in zip(weighted(executor)[:-1], main[:-1], strict=True):
        assert torch.equal(first.mean, second.mean)
    module.begin_update(FRACTION, 0)
    assert (executor(x)[0] - expected(x)[0]).abs().max() > 0.1  # the skips do something


def pre_activated(projects: bool) -> ir.Model:
    """Two blocks in pre-activation order, and a third whose skip is a projection of what is activated already."""
    net = Network(*IMAGE_SHAPE)
    x = net.conv("x", 3, 8, bias=True)
    for name in ("add1", "add2"):
        y = net.conv(net.op("Relu", net.norm(x, 8)), 8, 8, bias=True)
        x = net.op("Add", x, net.conv(net.op("Relu", net.norm(y, 8)), 8, 8, bias=True), name=name)
    if projects:
        x = net.op("Relu", net.norm(x, 8))
        y = net.conv(net.op("Relu", net.norm(net.conv(x, 8, 8), 8)), 8, 8)
        x = net.op("Add", y, net.conv(x, 8, 8, (1, 1)), name="add3")
    model = net.model(net.head(net.op("Relu", net.norm(x, 8)), 8, CLASSES))
    return quantized(model, net.inputs(16), weight_bits=8, activation_bits=8)


def faded(
    residual: ir.Model, mode: BatchNormMode = "batch", blocks: str = "*", *, full_precision: bool = False
) -> tuple[FadingSkips, Executor, ir.Model]:
    """The companion, the plain network in training, and its file."""
    plain = stripped(residual.clone(), blocks)
    executor = Executor(plain, batch_norm=mode, full_precision=full_precision).train()
    return (
        FadingSkips([executor], residual, [block.name for block in stripped_blocks(plain)], fraction=FRACTION),
        executor,
        plain,
    )


@pytest.mark.parametrize(
    ("projects", "blocks"),
    [(False, "*"), (True, "*"), (False, "add1"), (False, "add2"), (True, "add2"), (True, "add3")],
)
def test_in_pre_activation_order_at_first(projects: bool, blocks: str) -> None:
    """The float network with its skips, up to the order of float32 sums, and it trains as that does.

    On running statistics: a BatchNormalization that stands alone, as in the residual network, has no others.
    """
    residual = pre_activated(projects)
    module, executor, _ = faded(residual, "running", blocks, full_precision=True)
    expected = Executor(residual, full_precision=True).train()
    x, labels = batch()
    module.begin_update(Fraction(0), 0)
    answers = [network(x)[0] for network in (executor, expected)]
    torch.testing.assert_close(*answers, rtol=SUMMED_OTHERWISE, atol=SUMMED_OTHERWISE)
    for answer in answers:
        torch.nn.functional.cross_entropy(answer.flatten(1), labels).backward()
    main = {layer.layer.name: layer.weight.grad for layer in weighted(expected)}
    for layer in weighted(executor):
        grads = layer.weight.grad, main[layer.layer.name]
        torch.testing.assert_close(*grads, rtol=SUMMED_OTHERWISE, atol=SUMMED_OTHERWISE)
    skips = [parameter.grad for parameter in module.parameters()]
    assert len(skips) == (2 if blocks in {"*", "add3"} and projects else 0)  # a weight and its bias, if it trains
    module.begin_update(FRACTION, 0)
    assert (executor(x)[0] - answers[0]).abs().max() > 0.1  # the skips do something


@pytest.mark.parametrize("projects", [False, True])
def test_in_pre_activation_order_at_the_end(projects: bool) -> None:
    module, executor, plain = faded(pre_activated(projects))
    alone = in_training(plain)
    x, _ = batch()
    module.begin_update(FRACTION, 0)
    assert torch.equal(executor(x)[0], alone(x)[0])
    module.begin_update(Fraction(0), 0)
    assert not torch.equal(executor(x)[0], alone(x)[0])
    write_back(executor)
    assert_exact(plain, x.numpy(), executor)


def test_skips_within_a_main_path() -> None:
    """RepVGG's block: a 3×3 convolution, a projection and a BatchNormalization, added up one after the other."""
    net = Network(*IMAGE_SHAPE)
    x = net.op("Relu", net.norm(net.conv("x", 3, 8), 8))
    for name in ("first", "second"):
        y = net.op("Add", net.norm(net.conv(x, 8, 8), 8), net.norm(net.conv(x, 8, 8, (1, 1)), 8), name=f"{name}_inner")
        x = net.op("Relu", net.op("Add", y, net.norm(x, 8), name=f"{name}_outer"))
    model = net.model(net.head(x, 8, CLASSES))
    residual = quantized(model, net.inputs(16), weight_bits=8, activation_bits=8)
    module, executor, plain = faded(residual, full_precision=True)
    assert [(block.name, block.products) for block in blocks_of(plain, executor)] == [
        ("first_inner", (executor.steps[1],)), ("second_inner", (executor.steps[2],)),
    ]  # fmt: skip
    expected = Executor(residual, batch_norm="batch", full_precision=True).train()
    x, _ = batch()
    module.begin_update(Fraction(0), 0)
    torch.testing.assert_close(executor(x)[0], expected(x)[0], rtol=SUMMED_OTHERWISE, atol=SUMMED_OTHERWISE)
    module.begin_update(FRACTION, 0)
    assert (executor(x)[0] - expected(x)[0]).abs().max() > 0.1


def addends(module: FadingSkips, executor: Executor, done: Fraction) -> list[torch.Tensor | None]:
    module.begin_update(done, 0)
    return [addend() for step in executor.steps for addend in step.addends]


def test_it_falls_on_a_line() -> None:
    module, executor, _ = made()
    executor(batch()[0])
    # The running variance, which the multiplier of the skip's convolution hangs on, moves with every forward.
    start = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    whole = addends(module, executor, Fraction(0))
    assert len(whole) == 2
    for done, scale in ((Fraction(1, 8), 0.75), (Fraction(1, 4), 0.5), (Fraction(3, 8), 0.25)):
        module.load_state_dict(start)
        for found, all_of_it in zip(addends(module, executor, done), whole, strict=True):
            assert found is not None
            assert all_of_it is not None
            assert torch.equal(found, scale * all_of_it)
            assert all_of_it.abs().max() > 0
    for done in (FRACTION, Fraction(3, 4), Fraction(1)):
        assert addends(module, executor, done) == [None, None]


def test_when_it_is_gone_nothing_is_computed() -> None:
    """Bitwise the plain network's forward, statistics and gradients."""
    module, executor, _ = made()
    plain = in_training(plain_qdq())
    calls: list[int] = []
    for layer in module.layers:
        layer.register_forward_hook(lambda *_: calls.append(1))
    x, labels = batch()
    module.begin_update(FRACTION, 0)
    for network in (executor, plain):
        torch.nn.functional.cross_entropy(network(x)[0].flatten(1), labels).backward()
    assert calls == []
    for (name, first), (_, second) in zip(executor.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.equal(first.grad, second.grad), name
    for name, tensor in plain.state_dict().items():
        assert torch.equal(executor.state_dict()[name], tensor), name
    assert torch.equal(executor(x)[0], plain(x)[0])
    assert all(parameter.grad is None for parameter in module.parameters())
    module.begin_update(Fraction(0), 0)
    executor(x)
    assert len(calls) == 1  # the second block's convolution


def test_evaluation_has_no_skips() -> None:
    module, executor, _ = made()
    module.begin_update(Fraction(0), 0)
    with torch.no_grad():
        assert torch.equal(executor.eval()(batch()[0])[0], Executor(plain_qdq())(batch()[0])[0])


def test_both_networks_have_them() -> None:
    module, executor, _ = made(Executor.twin)
    twin = module._networks[1]
    x, _ = batch()
    module.begin_update(Fraction(0), 0)
    executor(x)
    first = twin(x)[0]
    module.begin_update(Fraction(1), 0)
    executor(x)
    assert not torch.equal(twin(x)[0], first)


def test_only_what_was_stripped_fades() -> None:
    residual = residual_qdq()
    plain = stripped(residual.clone(), "add1")
    executor = in_training(plain)
    FadingSkips([executor], residual, [block.name for block in stripped_blocks(plain)], fraction=FRACTION)
    assert [step.position for step in executor.steps if step.addends] == [2]


def test_each_network_has_skips_of_its_own() -> None:
    """AG averages the gradients of what both networks share; skips are none of it."""
    module, executor, _ = made(Executor.twin)
    alone, other, _ = made()
    assert len(module.layers) == 2 * len(alone.layers) == 2
    x, labels = batch()
    for companion, network in ((module, executor), (alone, other)):
        companion.begin_update(Fraction(0), 0)
        torch.nn.functional.cross_entropy(network(x)[0].flatten(1), labels).backward()
    assert torch.equal(module.layers[0].weight.grad, alone.layers[0].weight.grad)
    torch.nn.functional.cross_entropy(module._networks[1](x)[0].flatten(1), labels).backward()
    assert torch.equal(module.layers[0].weight.grad, alone.layers[0].weight.grad)
    assert module.layers[1].weight.grad.abs().max() > 0


def test_a_copy_in_full_precision_has_skips_in_full_precision() -> None:
    module, *_ = made(Executor.float_copy)
    copy = module._networks[1]
    module.begin_update(Fraction(0), 0)
    copy(batch()[0])
    for addend in (addend for step in copy.steps for addend in step.addends):
        more = addend()
        assert more is not None
        assert len(more.unique()) > more.numel() / 4  # a grid of 4 bits has 16


@pytest.mark.parametrize("method", ["faq", "ag"])
def test_skips_train_along_and_are_not_in_the_file(method: Any) -> None:
    residual = residual_qdq()
    plain = stripped(residual.clone())
    names = [node.name for node in plain.graph]
    executor = Executor(plain, batch_norm="batch")
    settings = replace(RUN, fade=0.5, method=method)
    companions = make_companions(executor, plain, residual, settings, IMAGE_SHAPE)
    (fading,) = (companion for companion in companions if isinstance(companion, FadingSkips))
    # AG's network has one of its own, which its answer doesn't read: it leaves the last block before its Add.
    skip, *others = fading.layers
    assert len(others) == (method == "ag")
    before = skip.weight.detach().clone()
    train(executor, images(), settings, companions=companions)
    assert not torch.equal(skip.weight, before)
    write_back(executor)
    assert [node.name for node in plain.graph] == names
    assert_exact(plain, batch()[0].numpy(), executor)
    assert_exact(plain, batch()[0].numpy())
