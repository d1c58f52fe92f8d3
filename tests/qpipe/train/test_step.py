"""What may be asked of a step: another arithmetic of its product, a look at it, an addend; and what stays."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from qpipe.errors import ModelError
from qpipe.ops import TorchProduct
from qpipe.settings.training import BatchNormMode
from qpipe.train.executor import Executor
from qpipe.train.step import Step
from qpipe.train.weighted import Product
from qpipe.train.write_back import write_back
from support.run import assert_exact
from support.training import SUMMED_OTHERWISE, batch
from support.zoo.trainable import in_training, logits, plain_qdq, residual_qdq

Error = Callable[[torch.Tensor], torch.Tensor]
modes = pytest.mark.parametrize("mode", ["running", "batch"])


def over_primitives(product: TorchProduct, error: Error, saved: list[tuple[torch.Tensor, ...]]) -> Product:
    """The product as one op over its three primitives; `error` is done to the gradient that comes back, once."""

    class OverPrimitives(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
            ctx.save_for_backward(x, w)
            saved.append((x, w))
            return product.forward(x, w, b)

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
            x, w = ctx.saved_tensors
            e = error(gradients[0])
            both = product.grad_input(x.shape, w, e), product.grad_weight(x, w.shape, e)
            return both if len(ctx.needs_input_grad) == 2 else (*both, e.sum(0))

    return OverPrimitives.apply  # type: ignore[no-any-return]


def gradients(network: Executor) -> list[torch.Tensor]:
    x, labels = batch()
    network.zero_grad()
    F.cross_entropy(logits(network, x), labels).backward()  # type: ignore[no-untyped-call]
    return [step.module.weight.grad.clone() for step in network.products()]  # type: ignore[union-attr]


@modes
def test_a_product_is_one_op_over_three_primitives(mode: BatchNormMode) -> None:
    """Written out, it trains as torch's own; what it keeps for the backward are the quantized operands."""
    expected = gradients(in_training(plain_qdq(), mode))
    network, saved = in_training(plain_qdq(), mode), list[tuple[torch.Tensor, ...]]()
    for step in network.products():
        step.replace_product(lambda product: over_primitives(product, lambda e: e, saved))
    found = gradients(network)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=SUMMED_OTHERWISE * float(theirs.abs().max()))
    assert len(saved) == len(found) == 6
    for step, (x, w) in zip(network.products(), saved, strict=True):
        scale = step.layer.sources[0].grid.scale
        assert torch.equal(x / scale, (x / scale).round())
        assert torch.equal(w, step.module.weight_in_use())


@modes
def test_errors_may_have_a_quantizer_of_their_own(mode: BatchNormMode) -> None:
    """The forward and what is evaluated are as they were; both gradients are made from the rounded error."""
    x, _ = batch()
    model = plain_qdq()
    alone, network = in_training(plain_qdq(), mode), in_training(model, mode)
    step = list(network.products())[2]
    saved, errors = list[tuple[torch.Tensor, ...]](), list[torch.Tensor]()

    def rounded(e: torch.Tensor) -> torch.Tensor:
        scale = e.abs().max() / 7
        errors.append((e / scale).round() * scale)
        return errors[-1]

    step.replace_product(lambda product: over_primitives(product, rounded, saved))
    torch.testing.assert_close(logits(network, x), logits(alone, x), rtol=SUMMED_OTHERWISE, atol=SUMMED_OTHERWISE)
    saved.clear()
    found, before = gradients(network), gradients(alone)
    differ = [bool((a - b).abs().max() > 1e-3 * b.abs().max()) for a, b in zip(found, before, strict=True)]
    assert differ == [True] * 3 + [False] * 3
    (error,), ((operand, weight),) = errors, saved
    assert len(error.unique()) <= 15
    expected = torch.nn.grad.conv2d_weight(operand, weight.shape, error, padding=1)
    torch.testing.assert_close(found[2], expected)
    write_back(network.eval())
    assert_exact(model, x.numpy(), network)


@pytest.mark.parametrize("make", [plain_qdq, residual_qdq])
def test_evaluation_is_the_files_whatever_is_asked(make: Any) -> None:
    model = make()
    network = Executor(model, batch_norm="batch")
    for step in network.steps[:-1]:
        step.tap(torch.neg)
        step.add(lambda: torch.tensor(1.0))
        step.keep_unquantized()
    for step in network.products():
        step.replace_product(lambda product: lambda x, w, *b: 2 * product(x, w, *b))
    assert_exact(model, batch()[0].numpy(), network)


@modes
def test_what_is_kept_is_not_overwritten(mode: BatchNormMode) -> None:
    """Where nobody looks the activation and the quantizer may use up what the layer computed."""
    x, _ = batch()
    network = in_training(plain_qdq(), mode)
    expected = network.twin(), network.float_copy()
    for other in (network, *expected):
        seen: list[torch.Tensor] = []
        step = other.steps[1]
        step.keep_unquantized()
        step.tap(lambda y, seen=seen: seen.append(y) or y)  # type: ignore[misc]
        network(x)
        logits(other, x)
        assert step.unquantized.min() < 0
        assert step.activated.min() == 0
        assert torch.equal(step.activated, step.unquantized.relu())
        assert seen[-1].min() < 0
        assert step.rounded(step.unquantized).min() == 0
        assert step.unquantized.min() < 0


def test_what_is_looked_at_is_not_folded() -> None:
    """On running statistics the multiplier is a part of the weight, unless somebody wants the product itself."""
    x, _ = batch()
    network = in_training(plain_qdq(), "running")
    step, seen, weights = list(network.products())[1], list[torch.Tensor](), list[torch.Tensor]()

    def watched(product: TorchProduct) -> Product:
        def run(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            weights.append(w)
            return product(x, w)

        return run

    step.replace_product(watched)
    step.tap(lambda y: seen.append(y) or y)  # type: ignore[func-returns-value]
    network(x)
    assert torch.equal(weights[0], step.module.weight_in_use())
    assert len(seen) == 1


def test_addends_come_before_the_activation() -> None:
    x, _ = batch()
    network, other = in_training(plain_qdq()), in_training(plain_qdq())
    more = torch.randn(12, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    given: list[torch.Tensor | None] = [None, more]
    for step in (network.steps[1], other.steps[1]):
        step.keep_unquantized()
    for addend in given:
        network.steps[1].add(lambda addend=addend: addend)  # type: ignore[misc]
    network(x)
    other(x)
    assert torch.equal(network.steps[1].unquantized, other.steps[1].unquantized + more)


def test_a_step_without_its_quantizer() -> None:
    x, _ = batch()
    network = Executor(plain_qdq())
    step = network.steps[1]
    spec = step.layer.quantizer.grid  # type: ignore[union-attr]

    def given() -> torch.Tensor:
        values = network.start(x)
        with torch.no_grad():
            network.run(values, network.steps[:2])
        return values[step.gives] / spec.scale

    on_grid = given()
    assert torch.equal(on_grid, on_grid.round())
    step.leave_unrounded()
    off_grid = given()
    assert off_grid.min() == 0  # the ReLU stays
    assert not torch.equal(off_grid, off_grid.round())
    assert len(list(network.named_quantizers())) == len(network.quantizers)


def test_the_same_step_of_another_network() -> None:
    network = in_training(plain_qdq())
    twin = network.twin()
    for step in network.steps:
        found: Step = twin.counterpart(step)
        assert found is not step
        assert found.layer.name == step.layer.name
    with pytest.raises(ValueError, match=r"^step \d is of another graph$"):
        in_training(residual_qdq()).counterpart(network.steps[3])


def test_a_last_layer_shows_nothing() -> None:
    last = in_training(plain_qdq()).steps[-1]
    with pytest.raises(ModelError, match=r"^Gemm '\w+': has no quantizer behind it, expected one$"):
        last.tap(torch.neg)
