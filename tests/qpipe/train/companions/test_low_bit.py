"""MLS training of a network: which layers, whose draws, what is evaluated, and what is told of what is no number."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch.nn import functional as F

from qpipe.arith.mls.generators import Role
from qpipe.arith.mls.quantize import MlsTensor, quantize
from qpipe.data import Source
from qpipe.errors import ModelError
from qpipe.settings import FinetuneSettings
from qpipe.train.companions import low_bit
from qpipe.train.companions.low_bit import LowBit, low_bit_steps
from qpipe.train.companions.make import make_companions
from qpipe.train.executor import Executor
from qpipe.train.keeper import DivergedError
from qpipe.train.loop import train
from support.networks import Network, float_model
from support.run import assert_exact
from support.training import (
    SETTINGS,
    InterruptedRunError,
    StopAfter,
    assert_same,
    batch,
    bright_images,
    replace,
    state_of,
)
from support.zoo.residual import made, post_activation
from support.zoo.trainable import IMAGE_SHAPE, residual_qdq

MLS = replace(SETTINGS, arithmetic="mls", element=(2, 1))


def residual_float() -> ir.Model:
    _, model = made(post_activation)
    return model


def low_bit_network(settings: FinetuneSettings = MLS, seed: int = 3) -> tuple[Executor, LowBit]:
    network = Executor(residual_float(), batch_norm="batch").train()
    return network, LowBit([network], settings, seed=seed)


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Every operand as it is quantized, and what it becomes."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def spy(x: torch.Tensor, *arguments: Any, **options: Any) -> MlsTensor:
        found = quantize(x, *arguments, **options)
        seen.append((x.detach().clone(), found.values * found.scale))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(low_bit, "quantize", spy)
        yield seen


def step(network: Executor, companion: LowBit, update: int) -> list[torch.Tensor]:
    """The gradients of one update on the same batch, without the update."""
    x, labels = batch()
    network.zero_grad()
    companion.begin_update(Fraction(0), update)
    F.cross_entropy(network(x)[0], labels).backward()  # type: ignore[no-untyped-call]
    return [layer.weight.grad.clone() for layer in network.weighted()]  # type: ignore[union-attr]


@pytest.mark.parametrize("make", [residual_float, residual_qdq])
def test_the_first_and_the_last_layer_are_left_alone(make: Any) -> None:
    """The skip's convolution lies between others too."""
    network = Executor(make())
    products = list(network.products())
    assert low_bit_steps(network, ends=False) == products[1:-1]
    assert low_bit_steps(network, ends=True) == products


def test_ends_are_all_that_have_no_product_before_or_behind_them() -> None:
    """Two heads behind a trunk, and two convolutions that read the image, one through a pool."""
    net = Network(3, 8, 8)
    pooled = net.op("MaxPool", "x", kernel_shape=[1, 1])
    x = net.op("Add", net.conv("x", 3, 4), net.conv(pooled, 3, 4))
    x = net.op("Relu", net.conv(net.op("Relu", x), 4, 4))
    network = Executor(net.model(net.head(x, 4, 2), net.op("Relu", net.conv(x, 4, 5))))
    assert [step.layer.op_type for step in low_bit_steps(network, ends=False)] == ["Conv"]
    assert low_bit_steps(network, ends=False) == list(network.products())[2:3]


def test_a_tensor_without_axes_for_groups_is_refused() -> None:
    model = float_model(
        "rows", (5,), ["one = Reshape(x, flat)", "[vector] y = MatMul(one, w)"], flat=np.array([-1]),
        w=np.eye(5, dtype=np.float32),
    )  # fmt: skip
    settings = replace(MLS, low_bit_ends=True)
    with pytest.raises(ModelError, match=r"^MatMul 'vector': reads one dimension, expected two or more that groups"):
        LowBit([Executor(model)], settings, seed=0)


def test_a_network_of_ends_alone_has_nothing_to_train_so() -> None:
    net = Network(*IMAGE_SHAPE)
    network = Executor(net.model(net.head(net.op("Relu", net.conv("x", 3, 8)), 8)))
    with pytest.raises(ModelError, match=r"^arithmetic: 'mls', but no layer lies between a first and a last one, see "):
        LowBit([network], MLS, seed=0)
    LowBit([network], replace(MLS, low_bit_ends=True), seed=0)


def test_draws_hang_on_the_seed_and_the_update() -> None:
    network, companion = low_bit_network()
    first, again, other = (step(network, companion, update) for update in (4, 4, 5))
    same, changed = ([torch.equal(a, b) for a, b in zip(first, third, strict=True)] for third in (again, other))
    assert all(same)
    assert not any(changed[1:-1])
    reseeded = step(*low_bit_network(seed=4), 4)
    assert not any(torch.equal(a, b) for a, b in zip(first[1:-1], reseeded[1:-1], strict=True))


def test_to_nearest_there_are_no_draws() -> None:
    network, companion = low_bit_network(replace(MLS, rounding="nearest"))
    one, two = (step(network, companion, update) for update in (4, 5))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_batch_of_an_update_has_draws_of_its_own_but_for_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step's quantized weight is one, for all batches, processes and networks."""
    network, companion = low_bit_network()
    x, labels = batch()
    companion.begin_update(Fraction(0), 7)
    with watched(monkeypatch) as seen, torch.no_grad():
        network(x)
        companion.extra_loss(lambda *_: torch.zeros(()), labels, x)
        network(x)
    half = len(seen) // 2
    equal = [torch.equal(seen[i][1], seen[half + i][1]) for i in range(2)]
    assert all(torch.equal(seen[i][0], seen[half + i][0]) for i in range(2))
    assert equal == [False, True]  # activation, weight of the first low-bit layer


def test_roles_and_layers_draw_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[tuple[Any, ...]] = []

    def key(*arguments: Any) -> torch.Generator:
        keys.append(arguments[:-1])
        return torch.Generator().manual_seed(0)

    monkeypatch.setattr(low_bit, "generator_of", key)
    step(*low_bit_network(), 2)
    layers = len(low_bit_steps(Executor(residual_float()), ends=False))
    assert len(set(keys)) == len(keys) == 3 * layers
    assert {arguments[-1] for arguments in keys} == {"weight", "activation", "error"}
    assert {arguments[:4] for arguments in keys} == {(3, 2, 0, 0)}


def test_evaluation_rounds_to_nearest_whatever_the_seed() -> None:
    x, _ = batch()
    outputs = []
    for seed in (1, 2):
        network, companion = low_bit_network(seed=seed)
        companion.begin_update(Fraction(0), seed)
        with torch.no_grad():
            outputs.append(network.eval()(x)[0])
    with torch.no_grad():
        float_output = Executor(residual_float())(x)[0]
    assert torch.equal(*outputs)
    assert float((outputs[0] - float_output).abs().max()) > 1e-3  # it is low-bit


def test_a_quantized_network_evaluates_as_its_file_does() -> None:
    model = residual_qdq()
    network = Executor(model, batch_norm="batch")
    LowBit([network], MLS, seed=0)
    assert_exact(model, batch()[0].numpy(), network)


@pytest.mark.parametrize("grouping", ["none", "n", "c", "nc"])
def test_each_role_has_its_own_format(monkeypatch: pytest.MonkeyPatch, grouping: str) -> None:
    """By the levels that each operand has, relative to its group's scale."""
    settings = replace(
        MLS, element_weight=(0, 2), element_error=(0, 1), element=(2, 3), group=grouping, group_format=(8, 0),
        tensor_scale="power-of-two", rounding="nearest",
    )  # fmt: skip
    formats: list[tuple[Role, str]] = [("weight", "⟨0, 2⟩"), ("activation", "⟨2, 3⟩"), ("error", "⟨0, 1⟩")]
    for role, element in formats:
        format_ = settings.format_of(role)
        assert (str(format_.element), format_.grouping, format_.power_of_two) == (element, grouping, True)
    network, companion = low_bit_network(settings)
    with watched(monkeypatch) as seen:
        step(network, companion, 0)
    (a, qa), (w, qw) = seen[:2]
    assert torch.equal(qw, quantize(w, settings.format_of("weight"), None).values * w.abs().max().log2().ceil().exp2())
    assert torch.equal(
        qa, quantize(a, settings.format_of("activation"), None).values * a.abs().max().log2().ceil().exp2()
    )


def test_every_kind_of_network_trains_with_it(source: Source) -> None:
    """A float one, and FAQ's; a twin's products are low-bit too, on the weights of the network that ships."""
    for model, values in (
        (residual_float(), {}),
        (residual_float(), {"low_bit_ends": True, "batch_norm": "running", "gradient_clip": 0.05}),
        (residual_qdq(), {}),
        (residual_qdq(), {"method": "ag"}),
        (residual_qdq(), {"ssp": True, "joint_distillation": 0.1}),
    ):
        settings = replace(MLS, epochs=1, **values)
        network = Executor(model, batch_norm=settings.batch_norm)
        before = state_of(network)
        companions = make_companions(network, model, model, settings, IMAGE_SHAPE)
        assert sum(isinstance(companion, LowBit) for companion in companions) == 1
        history = train(network, source, settings, companions=companions)
        assert np.isfinite(history[-1].loss)
        assert not torch.equal(before["layers.1.weight"], network.state_dict()["layers.1.weight"])


def test_networks_that_share_weights_share_their_quantized_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model = residual_qdq()
    network = Executor(model, batch_norm="batch").train()
    twin = network.twin()
    companion = LowBit([network, twin], MLS, seed=0)
    companion.begin_update(Fraction(0), 1)
    x, _ = batch()
    with watched(monkeypatch) as seen, torch.no_grad():
        network(x)
        twin(x)
    half = len(seen) // 2
    own, lent = seen[:half], seen[half:]
    assert all(torch.equal(a[1], b[1]) for a, b in zip(own[1::2], lent[1::2], strict=True))
    assert not torch.equal(own[0][1], lent[0][1])  # the same activations, drawn apart


def nan_gradient(answer: torch.Tensor, labels: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """0, whose gradient is no number."""
    return (answer * 0).sum().sqrt()


def test_an_error_that_is_no_number_names_step_and_layer(source: Source, path: Path) -> None:
    """The loss is finite; the weights stay those of the last good checkpoint."""
    network, _ = low_bit_network()
    name = low_bit_steps(network, ends=False)[-1].layer.name
    companions = make_companions(network, residual_float(), residual_float(), MLS, IMAGE_SHAPE)
    message = rf"^epoch 1, update 1: Conv '{name}': an error is no finite number; a lower --lr may help$"
    before = state_of(network)
    with pytest.raises(DivergedError, match=message):
        train(network, source, MLS, companions=companions, loss=nan_gradient, checkpoint=path)
    assert all(torch.equal(before[name], found) for name, found in state_of(network).items() if "weight" in name)
    assert not path.exists()


def test_an_activation_that_is_no_number_names_step_and_layer(source: Source, path: Path) -> None:
    network, companion = low_bit_network()
    train(network, source, replace(MLS, epochs=1), companions=[companion], checkpoint=path)
    first = next(network.weighted())
    with torch.no_grad():
        first.beta.fill_(3e38)
        first.gamma.fill_(3e38)
    name = low_bit_steps(network, ends=False)[0].layer.name
    with pytest.raises(DivergedError, match=rf"^epoch 1, update 1: Conv '{name}': an activation is no finite number"):
        train(network, source, MLS, companions=[companion])


def test_it_goes_on_to_the_same_bits(path: Path) -> None:
    """In the middle of an epoch, of updates of several batches; nothing but counters says what is drawn."""
    settings, source = replace(MLS, epochs=2, grow_at=(Fraction(1, 2),), batch_size=12), bright_images()

    def run(stop: int | None, **options: Any) -> tuple[list[Any], dict[str, torch.Tensor]]:
        network, companion = low_bit_network(settings)
        history = train(
            network, source, settings, companions=[companion], observers=[StopAfter(stop)], checkpoint=path, **options
        )
        return history, state_of(network)

    whole = run(None)
    path.unlink()
    for stop, resume in ((3, False), (6, True)):
        with pytest.raises(InterruptedRunError):
            run(stop, checkpoint_every=1, resume=resume)
    rest = run(None, resume=True)
    assert rest[0] == whole[0]
    assert_same(rest[1], whole[1])
