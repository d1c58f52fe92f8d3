"""A twin: one set of weights, quantized once a step, and every BatchNormalization twice."""

import copy

import pytest
import torch
from torch.nn import functional as F

from qpipe.settings.training import ActivationGradient, BatchNormMode
from qpipe.train.executor import Executor
from qpipe.train.weight_quantizer import WeightQuantizer
from support.training import SUMMED_OTHERWISE, batch
from support.zoo.trainable import in_training, logits, plain_qdq, residual_qdq, weighted


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_what_is_shared_and_what_is_not(mode: BatchNormMode) -> None:
    network = in_training(residual_qdq(), mode)
    twin = network.twin()
    assert twin.training
    for own, lender in zip(weighted(twin), weighted(network), strict=True):
        assert own.weight is lender.weight
        if not lender.has_batch_norm:
            assert own.beta is lender.beta
            assert lender.shared_parameters() == [lender.weight, lender.beta]
            continue
        assert lender.shared_parameters() == [lender.weight]
        for name in ("gamma", "beta", "mean", "variance"):
            mine, theirs = getattr(own, name), getattr(lender, name)
            assert torch.equal(mine, theirs)
            assert mine.data_ptr() != theirs.data_ptr()
            assert mine.requires_grad == theirs.requires_grad


def test_a_weight_is_quantized_once_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    network = in_training(plain_qdq())
    twin = network.twin()
    calls: list[int] = []
    quantize = WeightQuantizer.forward
    monkeypatch.setattr(WeightQuantizer, "forward", lambda *a, **k: calls.append(1) or quantize(*a, **k))
    x, _ = batch()
    network(x)
    twin(x)
    assert len(calls) == len(weighted(network)) == 6
    for own, lender in zip(weighted(twin), weighted(network), strict=True):
        assert own.weight_in_use() is lender.weight_in_use()
    network(x)
    assert len(calls) == 12  # the next step computes it anew


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_gradients_of_both_add_up(mode: BatchNormMode) -> None:
    """To those that either gives alone; BatchNormalizations keep theirs apart."""
    x, labels = batch()
    network = in_training(plain_qdq(), mode)
    twin = network.twin()
    with torch.no_grad():
        for layer in weighted(twin)[:-1]:
            layer.gamma.mul_(1.5)
    first = F.cross_entropy(logits(network, x), labels)
    second = F.cross_entropy(logits(twin, x), labels)
    shared = [parameter for layer in weighted(network) for parameter in layer.shared_parameters()]
    own = [layer.gamma for layer in weighted(network)[:-1]]
    others = [layer.gamma for layer in weighted(twin)[:-1]]
    alone = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in (first, second)]
    apart = [
        torch.autograd.grad(loss, [*own, *others], retain_graph=True, allow_unused=True) for loss in (first, second)
    ]
    (first + second).backward()  # type: ignore[no-untyped-call]
    for parameter, a, b in zip(shared, *alone, strict=True):
        assert not torch.equal(a, b)
        torch.testing.assert_close(parameter.grad, a + b, rtol=SUMMED_OTHERWISE, atol=1e-6)
    half = len(own)
    assert apart[0][half:] == apart[1][:half] == (None,) * half
    for parameter, expected in zip([*own, *others], [*apart[0][:half], *apart[1][half:]], strict=True):
        assert torch.equal(parameter.grad, expected)


def test_a_twin_leaves_the_networks_statistics_alone() -> None:
    x, _ = batch()
    network, alone = (in_training(plain_qdq()) for _ in range(2))
    twin = network.twin()
    for executor in (network, twin, alone):
        executor(x)
    before = copy.deepcopy(twin.state_dict())
    network(x)
    alone(x)
    for name, tensor in alone.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name
    assert torch.equal(before["layers.0.mean"], twin.state_dict()["layers.0.mean"])
    assert not torch.equal(before["layers.0.mean"], network.state_dict()["layers.0.mean"])


def test_activations_of_both_end_where_they_were_told() -> None:
    network = Executor(residual_qdq(), batch_norm="batch", activation_gradient="ymax").train()
    quantizers = [q for each in (network, network.twin()) for _, q in each.named_quantizers()]
    assert all(q.to_ymax for q in quantizers)
    ends: tuple[ActivationGradient, ...] = ("ymax", "codes")
    told, untold = (_first_gradient(Executor(residual_qdq(), activation_gradient=end).train()) for end in ends)
    assert not torch.equal(told, untold)


def _first_gradient(network: Executor) -> torch.Tensor:
    """Of the first weights, which all activations lie behind."""
    x, labels = batch()
    F.cross_entropy(logits(network, 4 * x), labels).backward()
    gradient = weighted(network)[0].weight.grad
    assert gradient is not None
    return gradient
