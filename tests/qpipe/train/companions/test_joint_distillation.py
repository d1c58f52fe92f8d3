"""Equation 4: the teacher is the student in full precision, both learn, and the distances lie between their blocks."""

from collections.abc import Callable

import onnx_ir as ir
import pytest
import torch
from torch.nn import functional as F

from qpipe.train.companions.blocks import blocks_of
from qpipe.train.companions.joint_distillation import JointDistillation
from qpipe.train.executor import Executor
from support.networks import Network
from support.quantize import quantized
from support.run import assert_exact
from support.training import cross_entropy
from support.zoo.residual import made, post_activation, pre_activation
from support.zoo.trainable import two_blocks, two_plain_blocks

BETA = 0.1
INPUTS = torch.from_numpy(Network(3, 8, 8).inputs())
LABELS = torch.arange(len(INPUTS)) % 4
SUMMED_OTHERWISE = 1e-4
"""Float sums of some layers in another order."""

both = pytest.mark.parametrize("build", [two_blocks, two_plain_blocks])


def beside(model: ir.Model) -> tuple[Executor, JointDistillation]:
    network = Executor(model, batch_norm="batch")
    return network, JointDistillation(network, blocks_of(model, network), weight=BETA, loss=cross_entropy)


def test_the_teacher_is_the_float_network_on_batch_statistics() -> None:
    net, model = made(post_activation)
    expected = Executor(model.clone(), batch_norm="batch").train()(INPUTS)[0]
    _, joint = beside(quantized(model, net.inputs(), weight_bits=2, activation_bits=2, cpu="vnni"))
    assert joint.teacher.training
    torch.testing.assert_close(joint.teacher(INPUTS)[0], expected, rtol=0, atol=SUMMED_OTHERWISE)


@pytest.mark.parametrize("copy", [Executor.float_copy, Executor.twin])
def test_what_normalizes_alone_is_unrounded(copy: Callable[[Executor], Executor]) -> None:
    net, model = made(pre_activation)
    expected = [norm.double() for norm in _alone(Executor(model.clone()))]
    student = Executor(quantized(model, net.inputs()))
    rounded, found = _alone(student.train()), _alone(copy(student))
    assert len(found) == len(expected) > 0
    for ours, theirs, differs in zip(found, expected, rounded, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-6)  # float32
        assert (differs - theirs).abs().max() > 1e-4


def _alone(network: Executor) -> list[torch.Tensor]:
    """What each BatchNormalization that stands alone makes of ones."""
    return [norm(torch.ones(1, len(norm.gamma), 1, 1)).detach() for norm in network.batch_norms()]


def test_it_starts_from_the_weights_as_they_are_and_keeps_its_own() -> None:
    model = two_blocks()
    network = Executor(model, batch_norm="batch")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.25)
    joint = JointDistillation(network, blocks_of(model, network), weight=BETA, loss=cross_entropy)
    pairs = list(zip(network.parameters(), joint.teacher.parameters(), strict=True))
    for student, teacher in pairs:
        assert torch.equal(student, teacher)
        assert student.data_ptr() != teacher.data_ptr()
    assert {name.partition(".")[0] for name in joint.state_dict()} == {"teacher"}


@both
def test_what_is_added(build: Callable[[], ir.Model]) -> None:
    model = build()
    network, joint = beside(model)
    network.train()(INPUTS)

    def fails(*told: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the teacher's loss is the labels' cross-entropy, whatever the network's own is")

    found = joint.extra_loss(fails, LABELS, INPUTS)
    again = network.float_copy()
    logits = again.train()(INPUTS)[0]
    expected = F.cross_entropy(logits, LABELS)
    ends = [block.end for block in blocks_of(model, network)]
    assert len(ends) == 2
    for end in ends:
        student, teacher = end.unquantized, joint.teacher.counterpart(end).unquantized
        assert teacher.min() < 0
        expected = expected + BETA * (student.relu() - teacher.relu()).square().mean()
    torch.testing.assert_close(found, expected)
    assert not torch.equal(logits, network(INPUTS)[0])


@both
def test_gradients_reach_both(build: Callable[[], ir.Model]) -> None:
    """The student's head alone hears nothing of it, for no logits are compared."""
    model = build()
    network, joint = beside(model)
    network.train()(INPUTS)
    joint.extra_loss(cross_entropy, LABELS, INPUTS).backward()
    last = blocks_of(model, network)[-1].end.position
    for step in network.products():
        reached = [p.grad is not None and bool(p.grad.any()) for p in step.module.parameters() if p.requires_grad]
        assert reached == [step.position <= last] * len(reached), step.layer.name
    assert all(p.grad is not None and p.grad.any() for p in joint.teacher.parameters() if p.requires_grad)


def test_the_distances_draw_at_the_teacher_too() -> None:
    gradients = []
    for weight in (BETA, 2 * BETA):
        model = two_blocks()
        network = Executor(model, batch_norm="batch")
        joint = JointDistillation(network, blocks_of(model, network), weight=weight, loss=cross_entropy)
        network.train()(INPUTS)
        joint.extra_loss(cross_entropy, LABELS, INPUTS).backward()
        gradients.append([layer.weight.grad for layer in joint.teacher.weighted()])
    differ = [not torch.equal(*pair) for pair in zip(*gradients, strict=True)]  # type: ignore[arg-type]
    assert differ == [True] * (len(differ) - 1) + [False]  # the head comes behind the blocks


@both
def test_the_network_computes_as_without(build: Callable[[], ir.Model]) -> None:
    """Bit for bit: in training, gradients too, and in evaluation."""
    alone = Executor(build(), batch_norm="batch").train()
    network, joint = beside(build())
    for executor in (alone, network.train()):
        cross_entropy(executor(INPUTS)[0], LABELS, INPUTS).backward()
    for (name, parameter), other in zip(network.named_parameters(), alone.parameters(), strict=True):
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, other.grad), name  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    joint.extra_loss(cross_entropy, LABELS, INPUTS)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.equal(network.eval()(INPUTS)[0], alone.eval()(INPUTS)[0])
    assert network.state_dict().keys() == alone.state_dict().keys()


def test_evaluation_is_the_files() -> None:
    model = two_plain_blocks()
    network, _ = beside(model)
    assert_exact(model, INPUTS.numpy(), network)


def test_bfloat16() -> None:
    model = two_blocks()
    network = Executor(model, batch_norm="batch", precision="bf16")
    joint = JointDistillation(network, blocks_of(model, network), weight=BETA, loss=cross_entropy)
    assert joint.teacher.precision == "bf16"
    network.train()(INPUTS)
    extra = joint.extra_loss(cross_entropy, LABELS, INPUTS)
    assert extra.dtype == torch.float32
    extra.backward()  # type: ignore[no-untyped-call]
