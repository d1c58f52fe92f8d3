"""Blocks as steps: with their skips and without, in order, and no block within another."""

from collections.abc import Callable, Sequence

import onnx_ir as ir
import pytest

from passes.skips.shortcut_every_convolution import ShortcutEveryConvolution
from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import PLAIN, set_json
from qpipe.ir.graph.residual import find_blocks
from qpipe.train.companions.blocks import Block, blocks_of
from qpipe.train.executor import Executor
from qpipe.train.step import Step
from support.networks import Network
from support.quantize import quantized
from support.zoo.digits import digits_model
from support.zoo.residual import BUILDS, Build, made, norm_conv, post_activation, stripped
from support.zoo.trainable import two_blocks, two_plain_blocks


def found(model: ir.Model) -> list[Block]:
    return blocks_of(model, Executor(model))


def positions(block: Block) -> tuple[str, list[int], int, bool]:
    return block.name, [step.position for step in block.products], block.end.position, block.has_skip


def op_types(steps: Sequence[Step]) -> list[str]:
    return [step.layer.op_type for step in steps]


def test_a_residual_network() -> None:
    """Layers: 0 the stem; 1, 2 and the Add 3; 4, 5, the skip's own 6, and the Add 7."""
    model = two_blocks()
    first, second = found(model)
    assert positions(first) == ("add1", [1, 2], 3, True)
    assert (second.name, second.has_skip, len(second.products)) == ("add2", True, 2)
    assert op_types(second.products) == ["Conv", "Conv"]
    assert op_types([second.end]) == ["Add"]


def test_a_stripped_network() -> None:
    blocks = found(two_plain_blocks())
    assert list(map(positions, blocks)) == [("add1", [1, 2], 2, False), ("add2", [3, 4], 4, False)]


def test_one_of_each() -> None:
    model = stripped(two_blocks(), "add1")
    assert [(block.name, block.has_skip) for block in found(model)] == [("add1", False), ("add2", True)]


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
def test_stripping_leaves_names_and_numbers_of_layers(build: Build) -> None:
    net, model = made(build)
    quantized(model, net.inputs())
    before = [(block.name, len(block.products)) for block in found(model)]
    assert [(block.name, len(block.products)) for block in found(stripped(model))] == before


def test_a_float_graph() -> None:
    _, model = made(post_activation)
    assert [block.name for block in found(model)] == ["add1", "add2"]
    (block,) = found(load_model(digits_model()))
    assert positions(block) == ("add", [1], 2, True)


def nested() -> tuple[Network, ir.Model]:
    """x -> conv -> (conv + skip) -> conv, + x: the inner skip lies on the main path of the outer block."""
    net = Network(3, 8, 8)
    x = net.op("Relu", norm_conv(net, "x", 3, 8))
    y = net.op("Relu", norm_conv(net, x, 8, 8))
    y = net.op("Relu", net.op("Add", norm_conv(net, y, 8, 8), y, name="inner"))
    y = norm_conv(net, y, 8, 8)
    x = net.op("Relu", net.op("Add", y, x, name="outer"))
    y = norm_conv(net, net.op("Relu", norm_conv(net, x, 8, 8)), 8, 8)
    x = net.op("Relu", net.op("Add", y, x, name="next"))
    return net, net.model(net.head(x, 8))


@pytest.mark.parametrize("strip", [None, "*", "inner", "outer"])
def test_a_block_within_another_is_left_out(strip: str | None) -> None:
    net, model = nested()
    quantized(model, net.inputs())
    if strip is not None:
        stripped(model, strip)
    assert [(block.name, len(block.products)) for block in found(model)] == [("outer", 3), ("next", 2)]


def named_as_exporters_do(model: ir.Model) -> ir.Model:
    for number, block in enumerate(find_blocks(model.graph), 1):
        block.add.name = f"/layer{number}/Add"
        for index, node in enumerate(block.layers, 1):
            node.name = f"/layer{number}/conv{index}/Conv"
    return model


@pytest.mark.parametrize("name", [named_as_exporters_do, lambda model: model], ids=["exported", "by hand"])
@pytest.mark.parametrize(
    ("strip", "ends"),
    [(None, ["Add", "Add"]), ("*", ["Conv", "Conv"]), ("*1*", ["Conv", "Add"]), ("*conv1*", ["Add", "Add"])],
)
def test_a_network_with_a_shortcut_around_every_convolution(
    name: Callable[[ir.Model], ir.Model], strip: str | None, ends: list[str]
) -> None:
    """The blocks are those that it had before, whichever of the shortcuts are gone."""
    _, model = made(post_activation)
    ShortcutEveryConvolution()(name(model))
    if strip is not None:
        stripped(model, strip)
    blocks = found(model)
    assert [len(block.products) for block in blocks] == [2, 2]
    assert op_types([block.end for block in blocks]) == ends
    assert [block.has_skip for block in blocks] == [end == "Add" for end in ends]


def test_no_blocks() -> None:
    net = Network(3, 8, 8)
    model = net.model(net.head(net.op("Relu", net.conv("x", 3, 8)), 8))
    with pytest.raises(ModelError, match=r"^no residual blocks, and none were stripped, "):
        found(model)


def test_a_stripped_layer_that_is_gone() -> None:
    model = two_plain_blocks()
    set_json(model, PLAIN, [{"name": "add1", "layers": ["conv of another file"], "removed": []}])
    with pytest.raises(ModelError, match=r"^no layer has a node 'conv of another file'$"):
        found(model)
