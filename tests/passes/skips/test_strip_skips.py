import numpy as np
import onnx_ir as ir
import pytest

from passes.skips.strip_skips import StripSkips
from qpipe.errors import LoweringError, ModelError
from qpipe.ir.files.metadata import PLAIN, get_json, set_json
from qpipe.ir.graph.residual import find_blocks
from support.networks import Network, ops
from support.quantize import quantized
from support.run import assert_exact, run
from support.zoo.residual import BUILDS, Build, activated_branch, made, post_activation, stripped

builds = pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)


@builds
def test_a_float_network_becomes_the_plain_one(build: Build) -> None:
    net, model = made(build)
    _, plain = made(build, skips=False)
    stripped(model)
    x = net.inputs()
    np.testing.assert_array_equal(run(model, x)[0], run(plain, x)[0])
    if build is not activated_branch:
        assert ops(model) == ops(plain)


def test_one_block_of_two() -> None:
    net, model = made(post_activation)
    x = net.inputs()
    before = run(model, x)[0]
    both = model.clone()
    stripped(model, "add2")
    assert [block.name for block in find_blocks(model.graph)] == ["add1"]
    assert not np.array_equal(run(model, x)[0], before)
    stripped(model, "add?")
    stripped(both)
    np.testing.assert_array_equal(run(model, x)[0], run(both, x)[0])
    assert get_json(model, PLAIN) == get_json(both, PLAIN)[::-1]


def test_what_was_removed_is_listed() -> None:
    _, model = made(post_activation)
    names = {node.name for node in model.graph}
    stripped(model)
    left = {node.name for node in model.graph}
    first, second = get_json(model, PLAIN)
    assert (first["name"], first["removed"]) == ("add1", ["add1"])
    assert (second["name"], second["removed"][-1]) == ("add2", "add2")
    assert [name[:4] for name in second["removed"]] == ["conv", "batc", "add2"]
    assert {*first["removed"], *second["removed"]} == names - left
    assert len(first["layers"]) == len(second["layers"]) == 2
    assert {*first["layers"], *second["layers"]} <= left


def test_what_something_else_uses_stays() -> None:
    """A skip's convolution that is an output too."""
    net = Network(3, 8, 8)
    x = net.op("Relu", net.conv("x", 3, 8))
    skip = net.conv(x, 8, 8, (1, 1))
    total = net.op("Add", net.conv(net.op("Relu", net.conv(x, 8, 8)), 8, 8), skip, name="add")
    model = net.model(net.head(net.op("Relu", total), 8), skip)
    before = run(model, net.inputs())
    stripped(model)
    after = run(model, net.inputs())
    np.testing.assert_array_equal(after[1], before[1])
    assert not np.array_equal(after[0], before[0])
    assert get_json(model, PLAIN)[0]["removed"] == ["add"]


@pytest.mark.parametrize("activation", [None, "Relu"])
@pytest.mark.parametrize("is_quantized", [False, True])
def test_an_add_at_the_output(activation: str | None, is_quantized: bool) -> None:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.conv("x", 3, 8))
    total = net.op("Add", net.conv(net.op("Relu", net.conv(x, 8, 8)), 8, 8), x)
    model = net.model(net.op(activation, total) if activation else total)
    if is_quantized:
        quantized(model, net.inputs())
    names = [value.name for value in model.graph.outputs]
    stripped(model)
    assert [value.name for value in model.graph.outputs] == names
    assert len({v.name for node in model.graph for v in node.outputs}) == len(ops(model))
    if is_quantized:
        assert_exact(model, net.inputs())
    else:
        assert run(model, net.inputs())[0].shape == (8, 8, 8, 8)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ("layer*", "blocks 'layer*': matches no residual block, expected a pattern of names such as 'add1', 'add2'"),
        (
            "add1,layer*",
            "blocks 'layer*': matches no residual block, expected a pattern of names such as 'add1', 'add2'",
        ),
        ("ad2", "blocks 'ad2': matches no residual block, expected a pattern of names such as 'add2', 'add1'"),
    ],
)
def test_a_pattern_that_matches_nothing(blocks: str, message: str) -> None:
    _, model = made(post_activation)
    with pytest.raises(LoweringError) as refusal:
        StripSkips(blocks=blocks)(model)
    assert str(refusal.value) == message


def test_a_plain_network_is_refused_and_so_is_a_second_run() -> None:
    message = "no residual Add, expected one that joins a skip with a longer path"
    _, model = made(post_activation)
    _, plain = made(post_activation, skips=False)
    stripped(model)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    for each in (model, plain):
        with pytest.raises(LoweringError) as refusal:
            StripSkips()(each)
        assert str(refusal.value) == message
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_block_that_can_not_be_stripped_is_refused_before_anything_changes() -> None:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.conv("x", 3, 8))
    for number in range(3):
        skip = net.op("Sigmoid", x, name=f"gate{number}") if number else x
        y = net.conv(net.op("Relu", net.conv(x, 8, 8)), 8, 8)
        x = net.op("Relu", net.op("Add", y, skip, name=f"add{number}"))
    model = net.model(net.head(x, 8))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    with pytest.raises(LoweringError) as refusal:
        StripSkips()(model)
    assert str(refusal.value) == (
        "block 'add1', Add 'add1': its skip has Sigmoid 'gate1', expected nothing but Slice, Pad, pooling, 1x1 Conv "
        "and BatchNormalization (and 1 more such blocks); those that can be stripped are blocks such as 'add0'"
    )
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    stripped(model, "add0")


def test_several_patterns() -> None:
    _, model = made(post_activation)
    stripped(model, "add1, *2")
    assert [entry["name"] for entry in get_json(model, PLAIN)] == ["add1", "add2"]


def test_a_list_that_is_none() -> None:
    _, model = made(post_activation)
    set_json(model, PLAIN, "all")
    with pytest.raises(ModelError, match=r"metadata 'qpipe\.plain': Input should be a valid list"):
        StripSkips()(model)
