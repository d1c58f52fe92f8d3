"""From names to keys, from a layer to what comes before it, and the layers between two values."""

import onnx_ir as ir
import pytest
import torch
from networks import Network, quantized
from residual_networks import made, norm_conv, post_activation
from small_training import two_blocks

from qpipe.errors import ModelError
from qpipe.ir.graph.residual import ResidualBlock, find_blocks
from qpipe.train.companions.navigation import input_quantizer, key_before, key_giving, key_of, layer_shapes, section
from qpipe.train.executor import Executor


@pytest.fixture
def executor() -> Executor:
    """Layers: 0 the stem; 1, 2 and the Add 3; 4, 5 and 6, one of them the skip's, the Add 7; the head."""
    return Executor(two_blocks())


def wide_skips() -> tuple[Executor, list[ResidualBlock]]:
    """Activations of 4 bits, each block's start carried at 8 and requantized for its main path."""
    net, model = made(post_activation)
    quantized(model, net.inputs(), weight_bits=4, activation_bits=4, skip_bits=8)
    return Executor(model), find_blocks(model.graph)


def requantizations(network: Executor) -> list[str]:
    return [str(index) for index, layer in enumerate(network.plan) if layer.op_type == "QuantizeLinear"]


def test_any_node_of_a_layer_has_its_key(executor: Executor) -> None:
    for index, layer in enumerate(executor.plan):
        assert {key_of(executor, str(node.name)) for node in layer.nodes} == {str(index)}
    assert [node.op_type for node in executor.plan[0].nodes] == ["Conv", "BatchNormalization", "Relu"]


def test_a_name_that_no_layer_has(executor: Executor) -> None:
    with pytest.raises(ModelError, match=r"^no layer has a node 'conv99'$"):
        key_of(executor, "conv99")


def test_who_gives_a_value(executor: Executor) -> None:
    assert [key_giving(executor, layer.result) for layer in executor.plan] == [
        str(i) for i in range(len(executor.plan))
    ]
    assert key_giving(executor, executor.reads[0][0]) is None


def test_the_layer_before(executor: Executor) -> None:
    assert [key_before(executor, key) for key in ("1", "2", "4")] == ["0", "1", "3"]
    with pytest.raises(ModelError, match=r"^Conv '\w+': reads the network's input, expected a layer before it$"):
        key_before(executor, "0")


def test_the_layer_before_a_requantization() -> None:
    network, blocks = wide_skips()
    between = requantizations(network)
    assert between
    first = key_of(network, str(blocks[0].layers[0].name))
    assert key_giving(network, network.reads[int(first)][0]) in between
    assert key_before(network, first) == "0"


def test_the_quantizer_before(executor: Executor) -> None:
    assert input_quantizer(executor, "2") is executor.quantizer("1")
    assert input_quantizer(executor, "4") is executor.quantizer("3")
    assert input_quantizer(executor, "0") is None


def test_the_quantizer_before_is_a_requantization() -> None:
    """What rounds to the 4 bits that the main path reads, not to the 8 of the skip."""
    network, blocks = wide_skips()
    first = key_of(network, str(blocks[0].layers[0].name))
    found = input_quantizer(network, first)
    assert found is not None
    assert found.spec.bits == 4
    assert network.quantizer("0").spec.bits == 8


def test_the_quantizer_before_what_carries() -> None:
    """MaxPool and Flatten round nothing; the network's input has a quantizer that counts as none."""
    net = Network(3, 8, 8)
    x = net.op("MaxPool", "x", kernel_shape=[1, 1])
    x = net.op("MaxPool", net.op("Relu", norm_conv(net, x, 3, 8)), kernel_shape=[2, 2], strides=[2, 2])
    y = net.gemm(net.op("Flatten", norm_conv(net, x, 8, 8)), 8 * 4 * 4, 5)
    network = Executor(quantized(net.model(y), net.inputs()))
    assert [layer.op_type for layer in network.plan] == ["MaxPool", "Conv", "MaxPool", "Conv", "Flatten", "Gemm"]
    assert input_quantizer(network, "1") is None
    assert input_quantizer(network, "3") is network.quantizer("1")
    assert input_quantizer(network, "5") is network.quantizer("3")


def names(network: Executor, layers: list[int]) -> list[str]:
    return [network.plan[i].op_type for i in layers]


def test_a_section_is_what_lies_between() -> None:
    model = two_blocks()
    network, (first, second) = Executor(model), find_blocks(model.graph)
    assert section(network, first.start, first.skip) == []  # the identity
    assert section(network, first.start, first.main) == [1, 2]
    assert names(network, section(network, second.start, second.skip)) == ["Conv"]
    assert section(network, second.start, network.plan[7].result) == [4, 5, 6, 7]
    # What lies before a layer's quantizer is nobody's result.
    assert section(network, second.start, second.add.outputs[0]) == []
    assert section(network, network.reads[0][0], network.plan[-1].result) == list(range(len(network.plan)))


def test_shapes_are_those_of_the_graph(executor: Executor) -> None:
    shapes = layer_shapes(executor.train(), (3, 8, 8))
    assert not executor.training
    assert shapes[0].first_input == (1, 3, 8, 8)
    assert shapes[3].first_input == shapes[3].result == (1, 8, 8, 8)
    assert (shapes[4].first_input, shapes[7].result) == ((1, 8, 8, 8), (1, 16, 4, 4))
    assert (shapes[-1].first_input, shapes[-1].result) == ((1, 16), (1, 4))


def test_shapes_leave_the_statistics_alone(executor: Executor) -> None:
    before = {name: value.clone() for name, value in executor.state_dict().items()}
    layer_shapes(executor, (3, 8, 8))
    assert all(torch.equal(before[name], value) for name, value in executor.state_dict().items())


def test_a_layer_without_a_quantizer(executor: Executor) -> None:
    last = str(len(executor.plan) - 1)
    with pytest.raises(ModelError, match=r"^Gemm '\w+': has no quantizer behind it, expected one$"):
        executor.keep_unquantized(last)


def test_values_of_another_graph(executor: Executor) -> None:
    assert key_giving(executor, ir.Value(name="x")) is None
