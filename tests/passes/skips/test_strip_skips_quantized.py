from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

import qpipe
from passes.shipping.finalize import Finalize
from qpipe.arith.spec import QuantSpec
from qpipe.ir.files.metadata import PLAIN, get_json
from qpipe.ir.graph.residual import find_blocks
from qpipe.ir.quantized.qdq import ActivationQuantizer, insert_activation_quantizer
from qpipe.ir.quantized.view import QuantizedLayer, read_view
from qpipe.train.executor import Executor
from qpipe.train.write_back import write_back
from support.networks import Network, checked, ops
from support.quantize import finalized, quantized
from support.run import assert_exact, run
from support.training import train_steps
from support.zoo.residual import BUILDS, Build, made, norm_conv, post_activation, pre_activation, stripped

builds = pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)


def form(layer: QuantizedLayer) -> tuple[object, ...]:
    nodes = tuple(node.op_type for node in layer.nodes)
    return (*nodes, len(layer.sources), layer.quantizer is not None and layer.quantizer.grid.is_signed)


@builds
def test_a_quantized_network_has_the_form_of_the_plain_one(build: Build) -> None:
    net, model = made(build)
    x = net.inputs()
    _, plain = made(build, skips=False)
    stripped(quantized(model, x, weight_bits=4, activation_bits=4))
    quantized(plain, x, weight_bits=4, activation_bits=4)
    view, expected = read_view(model), read_view(plain)
    assert [form(layer) for layer in view.layers] == [form(layer) for layer in expected.layers]
    # Whether a ReLU6's bound needs a Clip at 8 bits depends on the data.
    kinds = [Counter(op for op in ops(each) if op != "Clip") for each in (model, plain)]
    assert kinds[0] == kinds[1]
    assert not any(layer.op_type == "Add" for layer in view.layers)


@pytest.mark.parametrize("options", [{}, {"weight_bits": 3, "activation_bits": 3, "quantizer": "lq"}], ids=["8", "lq"])
@builds
def test_training_finalizing_and_exports_agree(build: Build, options: dict[str, object]) -> None:
    net, model = made(build)
    x = net.inputs()
    stripped(quantized(model, x, **options))
    executor = Executor(model)
    train_steps(executor, x)
    write_back(executor)
    assert_exact(model, x, executor)
    expected = run(finalized(model), x)[0]
    for format_ in ("qoperator", "integer"):
        exported = qpipe.export(model, format=format_)
        assert not find_blocks(exported.graph)
        assert "QLinearAdd" not in ops(exported)
        np.testing.assert_array_equal(run(exported, x)[0], expected)


def test_of_a_quantized_network_the_quantizers_are_listed_too() -> None:
    net, model = made(post_activation)
    quantized(model, net.inputs())
    names = {node.name for node in model.graph}
    stripped(model)
    removed = {name for entry in get_json(model, PLAIN) for name in entry["removed"]}
    assert removed == names - {node.name for node in model.graph}
    # Two Adds, the branches' 3 quantizers, one Conv with its weight's quantizer, and one BatchNormalization.
    assert len(removed) == 2 + 3 * 2 + 4 + 1


def widened(build: Build) -> tuple[Network, ir.Model]:
    """Every block's start is carried in 8 bits and requantized to 4 for each other reader than the Add."""
    net, model = made(build)
    quantized(model, net.inputs(), weight_bits=4)
    for block in find_blocks(model.graph):
        for node in [node for node in block.start.consumers() if node is not block.add]:
            requantize(model, block.start, node, 4)
    return net, checked(model)


def requantize(model: ir.Model, value: ir.Value, reader: ir.Node, bits: int) -> None:
    """The same range in fewer bits, for one reader."""
    spec = next(quantizer.grid for quantizer in quantizers(model) if quantizer.output is value)
    lost = spec.bits - bits
    narrow = (QuantSpec.signed if spec.is_signed else QuantSpec.unsigned)(bits, spec.exponent + lost)
    insert_activation_quantizer(model.graph, value, narrow, only=[reader], suffix=str(reader.name))


def quantizers(model: ir.Model) -> list[ActivationQuantizer]:
    view = read_view(model)
    return [*view.inputs, *(layer.quantizer for layer in view.layers if layer.quantizer is not None)]


def requantizations(model: ir.Model) -> int:
    return sum(layer.op_type == "QuantizeLinear" for layer in read_view(model).layers)


def test_a_value_that_was_wider_for_the_skip_is_not_any_more() -> None:
    net, model = widened(post_activation)
    assert requantizations(model) == 3
    assert_exact(model, net.inputs())
    stripped(model)
    layers = [layer for layer in read_view(model).layers if layer.op_type == "Conv"]
    assert [layer.sources[0].grid.bits for layer in layers] == [8, 4, 8, 4, 8]
    assert requantizations(model) == 0
    assert_exact(model, net.inputs())
    qpipe.export(model)


def test_a_wide_value_in_pre_activation_order() -> None:
    """The first convolution and the first block's BatchNormalization become one layer through the requantization."""
    net, model = widened(pre_activation)
    stripped(model)
    assert [layer.op_type for layer in read_view(model).layers[:-3]] == ["Conv"] * 5
    assert requantizations(model) == 0
    assert_exact(model, net.inputs())


def test_one_block_stripped_leaves_the_others_wide() -> None:
    net, model = widened(post_activation)
    stripped(model, "add1")
    assert requantizations(model) == 2
    assert_exact(model, net.inputs())


@pytest.mark.parametrize(("bits", "left"), [((4, 4), 0), ((4, 3), 2)])
def test_several_readers_of_a_wide_value(bits: tuple[int, int], left: int) -> None:
    """A main path that forks at its start: equal grids are merged, of different ones the wide quantizer stays."""
    net = Network(3, 8, 8)
    x = net.op("Relu", norm_conv(net, "x", 3, 8))
    fork = net.op("Concat", norm_conv(net, x, 8, 8), norm_conv(net, x, 8, 8, 1), axis=1)
    total = net.op("Add", norm_conv(net, fork, 16, 8), x)
    model = quantized(net.model(net.head(net.op("Relu", total), 8)), net.inputs())
    (block,) = find_blocks(model.graph)
    before = requantizations(model)
    readers = [node for node in block.start.consumers() if node is not block.add]
    for node, width in zip(readers, bits, strict=True):
        requantize(model, block.start, node, width)
    stripped(model)
    assert requantizations(model) == before + left
    assert_exact(model, net.inputs())


def test_a_bound_outlives_its_quantizer() -> None:
    """The ReLU6 at the end of the main path is the Clip of a quantizer that goes."""
    net = Network(3, 8, 8)
    x = net.op("Relu", norm_conv(net, "x", 3, 8))
    y = net.relu6(norm_conv(net, net.op("Relu", norm_conv(net, x, 8, 8)), 8, 8), 0.75)
    model = quantized(net.model(net.head(net.op("Add", y, x), 8)), net.inputs())
    stripped(model)
    *_, spec = (layer.quantizer.grid for layer in read_view(model).layers if layer.op_type == "Conv")
    assert (spec.qmin, spec.qmax * spec.scale) == (0, 0.75)
    assert_exact(model, net.inputs())


@pytest.mark.parametrize("activation", [None, "Relu"])
def test_a_main_path_that_ends_in_a_carrier_keeps_its_quantizer(activation: str | None) -> None:
    net = Network(3, 8, 8)
    x = net.op("Relu", norm_conv(net, "x", 3, 8))
    y = net.op("Relu", norm_conv(net, x, 8, 8, strides=[2, 2]))
    y = net.op("MaxPool", norm_conv(net, y, 8, 8), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    total = net.op("Add", y, net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]))
    out = net.op(activation, total) if activation else net.conv(total, 8, 8)
    model = stripped(quantized(net.model(net.head(out, 8)), net.inputs(), activation_bits=4))
    assert_exact(model, net.inputs())
    qpipe.export(model)


def test_a_final_graph() -> None:
    """It keeps its integers: what the exactness condition says of them then is export's to judge."""
    net, model = made(post_activation)
    Finalize()(quantized(model, net.inputs()))
    stripped(model)
    assert read_view(model).is_final
    assert np.ptp(run(model, net.inputs())[0]) > 0
