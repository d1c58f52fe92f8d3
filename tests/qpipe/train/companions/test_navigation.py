"""From names to steps, from a step to what comes before it, and the steps between two values."""

import onnx_ir as ir
import pytest
import torch

from qpipe.errors import ModelError
from qpipe.ir.graph.residual import ResidualBlock, find_blocks
from qpipe.train.companions.navigation import (
    input_quantizer,
    section,
    step_before,
    step_giving,
    step_shapes,
    step_with,
)
from qpipe.train.executor import Executor
from qpipe.train.step import Step
from support.networks import Network
from support.quantize import quantized
from support.zoo.residual import made, norm_conv, post_activation
from support.zoo.trainable import two_blocks


@pytest.fixture
def executor() -> Executor:
    """Steps: 0 the stem; 1, 2 and the Add 3; 4, 5 and 6, one of them the skip's, the Add 7; the head."""
    return Executor(two_blocks())


def wide_skips() -> tuple[Executor, list[ResidualBlock]]:
    """Activations of 4 bits, each block's start carried at 8 and requantized for its main path."""
    net, model = made(post_activation)
    quantized(model, net.inputs(), weight_bits=4, activation_bits=4, skip_bits=8)
    return Executor(model), find_blocks(model.graph)


def requantizations(network: Executor) -> list[Step]:
    return [step for step in network.steps if step.layer.op_type == "QuantizeLinear"]


def test_any_node_of_a_layer_leads_to_its_step(executor: Executor) -> None:
    for step in executor.steps:
        assert {step_with(executor, str(node.name)) for node in step.layer.nodes} == {step}
    assert [node.op_type for node in executor.steps[0].layer.nodes] == ["Conv", "BatchNormalization", "Relu"]


def test_a_name_that_no_layer_has(executor: Executor) -> None:
    with pytest.raises(ModelError, match=r"^no layer has a node 'conv99'$"):
        step_with(executor, "conv99")


def test_who_gives_a_value(executor: Executor) -> None:
    assert [step_giving(executor, step.layer.result) for step in executor.steps] == executor.steps
    assert [step.position for step in executor.steps] == list(range(len(executor.steps)))
    assert step_giving(executor, executor.steps[0].reads[0]) is None


def test_the_layer_before(executor: Executor) -> None:
    steps = executor.steps
    assert [step_before(executor, steps[i]) for i in (1, 2, 4)] == [steps[i] for i in (0, 1, 3)]
    with pytest.raises(ModelError, match=r"^Conv '\w+': reads the network's input, expected a layer before it$"):
        step_before(executor, steps[0])


def test_the_layer_before_a_requantization() -> None:
    network, blocks = wide_skips()
    between = requantizations(network)
    assert between
    first = step_with(network, str(blocks[0].layers[0].name))
    assert step_giving(network, first.reads[0]) in between
    assert step_before(network, first) is network.steps[0]


def test_the_quantizer_before(executor: Executor) -> None:
    steps = executor.steps
    assert input_quantizer(executor, steps[2]) is steps[1].quantizer
    assert input_quantizer(executor, steps[4]) is steps[3].quantizer
    assert input_quantizer(executor, steps[0]) is None


def test_the_quantizer_before_is_a_requantization() -> None:
    """What rounds to the 4 bits that the main path reads, not to the 8 of the skip."""
    network, blocks = wide_skips()
    found = input_quantizer(network, step_with(network, str(blocks[0].layers[0].name)))
    assert found is not None
    assert found.grid.bits == 4
    assert network.steps[0].quantizer is not None
    assert network.steps[0].quantizer.grid.bits == 8


def test_the_quantizer_before_what_carries() -> None:
    """MaxPool and Flatten round nothing; the network's input has a quantizer that counts as none."""
    net = Network(3, 8, 8)
    x = net.op("MaxPool", "x", kernel_shape=[1, 1])
    x = net.op("MaxPool", net.op("Relu", norm_conv(net, x, 3, 8)), kernel_shape=[2, 2], strides=[2, 2])
    y = net.gemm(net.op("Flatten", norm_conv(net, x, 8, 8)), 8 * 4 * 4, 5)
    network = Executor(quantized(net.model(y), net.inputs()))
    steps = network.steps
    assert [step.layer.op_type for step in steps] == ["MaxPool", "Conv", "MaxPool", "Conv", "Flatten", "Gemm"]
    assert input_quantizer(network, steps[1]) is None
    assert input_quantizer(network, steps[3]) is steps[1].quantizer
    assert input_quantizer(network, steps[5]) is steps[3].quantizer


def test_a_section_is_what_lies_between() -> None:
    model = two_blocks()
    network, (first, second) = Executor(model), find_blocks(model.graph)
    assert section(network, first.start, first.skip) == []  # the identity
    steps = network.steps
    assert section(network, first.start, first.main) == steps[1:3]
    assert [step.layer.op_type for step in section(network, second.start, second.skip)] == ["Conv"]
    assert section(network, second.start, steps[7].gives) == steps[4:8]
    # What lies before a layer's quantizer is nobody's result.
    assert section(network, second.start, second.add.outputs[0]) == []
    assert section(network, steps[0].reads[0], steps[-1].gives) == steps


def test_shapes_are_those_of_the_graph(executor: Executor) -> None:
    shapes = step_shapes(executor.train(), (3, 8, 8))
    assert not executor.training
    assert shapes[0].first_input == (1, 3, 8, 8)
    assert shapes[3].first_input == shapes[3].result == (1, 8, 8, 8)
    assert (shapes[4].first_input, shapes[7].result) == ((1, 8, 8, 8), (1, 16, 4, 4))
    assert (shapes[-1].first_input, shapes[-1].result) == ((1, 16), (1, 4))


def test_shapes_leave_the_statistics_alone(executor: Executor) -> None:
    before = {name: value.clone() for name, value in executor.state_dict().items()}
    step_shapes(executor, (3, 8, 8))
    assert all(torch.equal(before[name], value) for name, value in executor.state_dict().items())


def test_a_layer_without_a_quantizer(executor: Executor) -> None:
    last, message = executor.steps[-1], r"^Gemm '\w+': has no quantizer behind it, expected one$"
    with pytest.raises(ModelError, match=message):
        last.keep_unquantized()
    with pytest.raises(ModelError, match=message):
        last.tap(lambda y: y)


def test_values_of_another_graph(executor: Executor) -> None:
    assert step_giving(executor, ir.Value(name="x")) is None
