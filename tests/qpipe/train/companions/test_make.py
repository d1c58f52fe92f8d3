"""The companions of a run: which, in which order, and that nothing of them is left in what is evaluated and written."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch

import qpipe
from qpipe.data import Source
from qpipe.errors import ModelError
from qpipe.settings import FinetuneSettings
from qpipe.settings.recipes import resolve
from qpipe.train.companion import Companion
from qpipe.train.companions.additional_losses import AdditionalLosses
from qpipe.train.companions.auxiliary import AuxiliaryGradient
from qpipe.train.companions.fade import FadingSkips
from qpipe.train.companions.joint_distillation import JointDistillation
from qpipe.train.companions.make import make_companions
from qpipe.train.executor import Executor
from qpipe.train.gradient_clip import weighted_layers
from qpipe.train.loop import train
from qpipe.train.observer import Observer
from qpipe.train.weighted import WeightedLayer
from qpipe.train.write_back import write_back
from support.networks import Network
from support.quantize import quantized
from support.run import assert_exact
from support.training import SETTINGS, assert_same, replace, state_of
from support.zoo.trainable import two_blocks, two_plain_blocks

SHAPE = (3, 8, 8)
ALL: dict[str, Any] = {"method": "ag", "additional_losses": 0.01, "joint_distillation": 0.1, "fade": 0.5, "ssp": True}
ORDER = ["AuxiliaryGradient", "AdditionalLosses", "JointDistillation", "FadingSkips", "StochasticPrecision"]

each = pytest.mark.parametrize(
    "told",
    [{"additional_losses": 0.01}, {"joint_distillation": 0.1}, ALL],
    ids=["losses", "joint", "all"],
)


def of(told: dict[str, Any], **more: Any) -> FinetuneSettings:
    return replace(SETTINGS, **{**told, **more})


def plain_run(settings: FinetuneSettings, model: ir.Model | None = None) -> tuple[Executor, list[Companion]]:
    """The plain network, with companions as the settings say."""
    network = two_plain_blocks() if model is None else model
    executor = Executor(network, batch_norm="batch")
    return executor, make_companions(executor, network, two_blocks(), settings, SHAPE)


def without_blocks() -> ir.Model:
    net = Network(*SHAPE)
    return net.model(net.head(net.op("Relu", net.conv("x", 3, 8)), 8))


def made(told: dict[str, Any]) -> list[str]:
    return [type(companion).__name__ for companion in plain_run(of(told))[1]]


def test_none_unless_they_are_asked_for() -> None:
    model = without_blocks()
    assert make_companions(Executor(model), model, model, SETTINGS, SHAPE) == []
    assert made({"additional_losses": 0.0, "joint_distillation": 0.0, "fade": 0.0, "ssp": False}) == []


def test_each_by_its_setting_in_the_order_in_which_they_act() -> None:
    assert [name for key, value in ALL.items() for name in made({key: value})] == ORDER
    assert made(dict(reversed(ALL.items()))) == ORDER


def test_they_are_told_what_the_settings_say() -> None:
    _, (auxiliary, losses, joint, *_) = plain_run(of(ALL, auxiliary_weight=0.25, layerwise=True))
    assert isinstance(auxiliary, AuxiliaryGradient)
    assert (auxiliary.weight, len(auxiliary.adaptors)) == (0.25, 4)
    assert isinstance(losses, AdditionalLosses)
    assert losses.weight == 0.01
    assert isinstance(joint, JointDistillation)
    assert joint.weight == 0.1


def test_their_gradients_are_clipped_as_the_network_s(source: Source) -> None:
    """Of what has weights of its own: a copy that falls to chance would draw the network there."""
    limit = 1e-6
    settings = of(ALL, epochs=1, gradient_clip=limit, lr=1.0, weight_decay=0.0, momentum=0.0, schedule="step")
    executor, companions = plain_run(settings)
    _, _, joint, fading, _ = companions
    assert isinstance(joint, JointDistillation)
    assert isinstance(fading, FadingSkips)
    layers = weighted_layers([executor, *companions])
    skips = [layer for layer in fading.layers if isinstance(layer, WeightedLayer)]
    assert skips
    assert layers == [*executor.weighted(), *joint.teacher.weighted(), *skips]
    before = [layer.weight.detach().clone() for layer in layers]
    train(executor, source, settings, companions=companions)
    for layer, old in zip(layers, before, strict=True):
        moved = float((layer.weight.detach() - old).norm() / old.norm())
        assert (moved < 100 * limit) == layer.has_batch_norm  # in so few updates; the last layers go far


def test_skips_fade_in_all_networks_and_precision_in_those_that_have_one() -> None:
    executor, companions = plain_run(of(ALL, ssp_ratio=1.0))
    auxiliary, _, joint, *_ = companions
    assert isinstance(auxiliary, AuxiliaryGradient)
    assert isinstance(joint, JointDistillation)
    for companion in companions:
        companion.begin_update(Fraction(0), 0)
    for network in (executor, auxiliary.twin, joint.teacher):
        assert [step.position for step in network.steps if step.addends] == [2, 4]
    rounds = [[q.rounds for _, q in network.named_quantizers()] for network in (executor, auxiliary.twin)]
    assert rounds[0] == rounds[1]
    assert not all(rounds[0])
    assert list(joint.teacher.named_quantizers()) == []


@pytest.mark.parametrize(
    "told", [{key: value} for key, value in ALL.items() if key != "fade"], ids=lambda told: next(iter(told))
)
def test_a_network_without_blocks(told: dict[str, Any]) -> None:
    model = without_blocks()
    with pytest.raises(ModelError, match=r"^no residual blocks, and none were stripped, "):
        make_companions(Executor(model), model, model, of(told), SHAPE)


def test_ssp_on_layers_needs_no_blocks() -> None:
    net = Network(*SHAPE)
    x = net.conv(net.op("Relu", net.conv(net.op("Relu", net.conv("x", 3, 8)), 8, 8)), 8, 8)
    model = net.model(net.head(net.op("Relu", x), 8))
    quantized(model, net.inputs(16))
    executor = Executor(model, batch_norm="batch")
    (ssp,) = make_companions(
        executor, model, model, of({"ssp": True, "ssp_fragments": "layers", "ssp_ratio": 1.0}), SHAPE
    )
    ssp.begin_update(Fraction(0), 0)
    assert [layer.rounds for layer in executor.weighted()] == [True, False, False, True]


def test_ssp_with_nothing_to_draw() -> None:
    net = Network(*SHAPE)
    model = quantized(net.model(net.head(net.op("Relu", net.conv("x", 3, 8)), 8)), net.inputs(16))
    told = of({"ssp": True, "ssp_fragments": "layers"})
    with pytest.raises(ModelError, match=r"^ssp: nothing to draw, expected layers of weights between"):
        make_companions(Executor(model), model, model, told, SHAPE)


@each
def test_they_change_what_is_trained_but_not_its_form(source: Source, told: dict[str, Any]) -> None:
    settings = of(told, epochs=1)
    executor, companions = plain_run(settings)
    before = [state_of(companion) for companion in companions]
    train(executor, source, settings, companions=companions)
    alone, _ = plain_run(SETTINGS)
    train(alone, source, replace(SETTINGS, epochs=1))
    state, expected = state_of(executor), state_of(alone)
    assert state.keys() == expected.keys()
    assert any(not torch.equal(state[name], expected[name]) for name in state)
    for companion, old in zip(companions, before, strict=True):
        new = state_of(companion)
        assert not old or any(not torch.equal(old[name], new[name]) for name in old)


@each
def test_what_is_evaluated_and_written_is_the_network_alone(source: Source, told: dict[str, Any]) -> None:
    model = two_plain_blocks()
    nodes, initializers = names(model)
    executor, companions = plain_run(of(told), model)
    train(executor, source, of(told, epochs=1), companions=companions)
    write_back(executor)
    assert names(model) == (nodes, initializers)
    assert_exact(model, Network(*SHAPE).inputs(), executor)


class InterruptedRunError(Exception):
    pass


class StopBefore(Observer):
    def __init__(self, update: int | None) -> None:
        self.update = update

    def before_update(self, executor: Executor, step: int) -> None:
        if step == self.update:
            raise InterruptedRunError


@each
@pytest.mark.parametrize("stop", [5, 7])
def test_a_run_that_goes_on_ends_with_the_same_bits(
    source: Source, tmp_path: Path, told: dict[str, Any], stop: int
) -> None:
    settings = of(told, momentum=0.9)
    ends = []
    for stops, path in (((None,), None), ((stop, None), tmp_path / "run")):
        for update in stops:
            executor, companions = plain_run(settings)
            options: dict[str, Any] = {"companions": companions, "observers": [StopBefore(update)]}
            if path is not None:
                options |= {"checkpoint": path, "checkpoint_every": 2, "resume": path.exists()}
            try:
                history = train(executor, source, settings, **options)
            except InterruptedRunError:
                continue
        ends.append((history, [state_of(module) for module in (executor, *companions)]))
    assert ends[0][0] == ends[1][0]
    for first, second in zip(ends[0][1], ends[1][1], strict=True):
        assert_same(first, second)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("companions")
    ir.save(two_blocks(), folder / "net.qdq.onnx")
    return folder


@pytest.mark.parametrize("plain", [False, True], ids=["residual", "plain"])
def test_the_trained_file_is_that_of_a_run_without(files: Path, source: Source, plain: bool) -> None:
    stripped: dict[str, Any] = {"plain": True, "strip": "cut"} if plain else {}

    def tuned(**told: Any) -> ir.Model:
        output = files / "tuned.onnx"
        qpipe.finetune(
            files / "net.qdq.onnx", source, output, **stripped, recipe="faq-8bit", batch_size=24, lr=0.01,
            evaluate=False, preprocess={"mean": (0.5,), "std": (0.5,)}, **told,
        )  # fmt: skip
        return ir.load(output)

    expected = names(tuned())
    for told in ({"additional_losses": 0.01}, {"joint_distillation": 0.1}):
        model = tuned(**told)
        assert names(model) == expected
        assert qpipe.inspect(model).kind == "QDQ, trainable"


def names(model: ir.Model) -> tuple[list[tuple[str | None, str]], dict[str, Any]]:
    """Nodes with their ops, and initializers with their shapes and types, in order."""
    nodes = [(node.name, node.op_type) for node in model.graph]
    return nodes, {name: (value.shape, value.dtype) for name, value in model.graph.initializers.items()}


@pytest.mark.parametrize("key", ["additional_losses", "joint_distillation"])
def test_recipes_have_none(key: str) -> None:
    for given, expected in (({}, 0.0), ({key: None}, 0.0), ({key: 0.25}, 0.25)):
        assert getattr(resolve(FinetuneSettings(recipe="ag", **given)), key) == expected
