"""The teacher is the float network; its part of the loss is Hinton's."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from qpipe.errors import ModelError
from qpipe.tasks.task import CLASSES
from qpipe.train.teacher import distillation, float_teacher
from support.networks import Network
from support.quantize import quantized
from support.run import run
from support.training import cross_entropy
from support.zoo.every_op import NETWORKS, Build, build


def small() -> Network:
    return Network(3, 8, 8, seed=0)


def head(net: Network) -> str:
    return net.head(net.op("Relu", net.norm(net.conv("x", 3, 8), 8)), 8)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_qdq_file_holds_the_float_network(network: Build, bits: int) -> None:
    """With its activations: a ReLU6 is a range of integers there, which the teacher has not."""
    net, outputs = build(network)
    model, x = net.model(*outputs), net.inputs()
    expected = run(model, x)
    teacher = float_teacher(quantized(model, x, weight_bits=bits, activation_bits=bits, cpu="vnni"))
    for told, y in zip(teacher(torch.from_numpy(x)), expected, strict=True):
        # Float sums in another order.
        np.testing.assert_allclose(told.numpy().reshape(y.shape), y, rtol=1e-4, atol=1e-4)


def test_it_is_frozen_and_leaves_training_alone() -> None:
    net = small()
    teacher = float_teacher(quantized(net.model(head(net)), net.inputs()), precision="bf16")
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    teacher(torch.from_numpy(net.inputs()))
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


class Fixed(torch.nn.Module):
    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def answer(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits


def test_weights_of_the_two_parts() -> None:
    torch.manual_seed(0)
    logits, told, labels, x = torch.randn(4, 5), torch.randn(4, 5), torch.arange(4), torch.zeros(4, 1)
    hard = distillation(Fixed(told), CLASSES, weight=0.0, temperature=3.0)(logits, labels, x)
    assert torch.equal(hard, cross_entropy(logits, labels, x))
    # A student that says what the teacher says loses nothing; at temperature 1 the soft part is a KL divergence.
    assert distillation(Fixed(logits), CLASSES, weight=1.0, temperature=3.0)(logits, labels, x).abs() < 1e-6
    p, q = F.softmax(told, 1), F.softmax(logits, 1)
    soft = distillation(Fixed(told), CLASSES, weight=1.0, temperature=1.0)(logits, labels, x)
    torch.testing.assert_close(soft, (p * (p / q).log()).sum(1).mean())


def test_a_teacher_with_other_classes() -> None:
    loss = distillation(Fixed(torch.zeros(2, 7)), CLASSES, weight=0.5, temperature=1.0)
    with pytest.raises(ModelError, match=r"teacher answers \[2, 7\], the network \[2, 5\]"):
        loss(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64), torch.zeros(2, 1))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_the_soft_part_is_multiplied_by_the_square_of_the_temperature(temperature: float) -> None:
    """Hinton et al., section 2: gradients of soft targets scale as 1/T**2, so they are multiplied by T**2."""
    torch.manual_seed(0)
    logits, told, labels, x = torch.randn(4, 5), torch.randn(4, 5), torch.arange(4), torch.zeros(4, 1)
    p, q = F.softmax(told / temperature, 1), F.softmax(logits / temperature, 1)
    divergence = (p * (p / q).log()).sum(1).mean()
    found = distillation(Fixed(told), CLASSES, weight=0.25, temperature=temperature)(logits, labels, x)
    expected = 0.75 * F.cross_entropy(logits, labels) + 0.25 * {1.0: 1, 2.0: 4, 4.0: 16}[temperature] * divergence
    torch.testing.assert_close(found, expected)
