"""Without its skips a network gives again what it gave with them, as far as least squares can have it."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.skips.refit_blocks import RefitBlocks
from passes.skips.strip_skips import StripSkips
from qpipe.errors import DataError, LoweringError
from qpipe.ir.graph.residual import find_blocks
from qpipe.ir.graph.stripped_blocks import stripped_blocks
from support.networks import Network, checked
from support.run import run
from support.zoo.residual import BUILDS, Build, activated_branch, made, norm_conv

builds = pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
FLOAT32 = 1e-3  # of outputs of size 1, through weights that float64 solved for with a ridge of 1e-3


def distance(model: ir.Model, expected: np.ndarray, x: np.ndarray) -> float:
    """Of the outputs, in parts of the expected ones' deviation."""
    return float(np.square(run(model, x)[0] - expected).mean() / expected.var())


def refitted(model: ir.Model, x: np.ndarray, blocks: str = "*") -> ir.Model:
    plain = model.clone()
    RefitBlocks(blocks=blocks, inputs=x)(plain)
    return checked(plain)


@builds
def test_it_is_nearer_than_skips_that_are_cut(build: Build) -> None:
    net, model = made(build)
    seen, other = net.inputs(200), net.inputs(50, seed=2)
    cut = model.clone()
    StripSkips()(cut)
    plain, expected = refitted(model, seen), run(model, other)[0]
    assert not find_blocks(plain.graph)
    assert [node.op_type for node in plain.graph] == [node.op_type for node in cut.graph]
    if build is activated_branch:
        # Its main path ends in a Relu, which no weights undo.
        np.testing.assert_array_equal(run(plain, other)[0], run(cut, other)[0])
    else:
        assert distance(plain, expected, other) < 0.5 * distance(cut, expected, other)


def wide_block(net: Network, activation: str | None, *, bias: bool) -> ir.Model:
    """More channels than the block has to say: most contribute nothing."""
    x = net.op("Relu", net.conv("x", 3, 4, bias=True))
    first = net.conv(x, 4, 16, bias=bias)
    first = first if bias else net.norm(first, 16)
    second = net.conv(net.op(activation, first) if activation else first, 16, 4, bias=True)
    model = net.model(net.head(net.op("Add", second, x), 4))
    weights = next(node for node in model.graph if node.outputs[0].name == second).inputs[1]
    assert weights is not None
    assert weights.const_value is not None
    array = weights.const_value.numpy().copy()
    array[:, 6:] = 0
    weights.const_value = ir.tensor(array, name=weights.name)
    return model


@pytest.mark.parametrize("activation", [None, "Relu"])
@pytest.mark.parametrize("bias", [False, True])
def test_channels_that_say_nothing_carry_the_whole_skip(activation: str | None, bias: bool) -> None:
    net = Network(3, 6, 6)
    model = wide_block(net, activation, bias=bias)
    other = net.inputs(50, seed=2)
    plain = refitted(model, net.inputs(600))
    assert distance(plain, run(model, other)[0], other) < FLOAT32


def test_a_pool_within_the_path_leaves_nothing_to_carry_through() -> None:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.conv("x", 3, 6, bias=True))
    y = net.op("MaxPool", net.conv(x, 6, 6, bias=True), kernel_shape=[3, 3], pads=[1] * 4)
    y = net.conv(y, 6, 6, bias=True)
    model = net.model(net.head(net.op("Add", y, x), 6))
    seen, other = net.inputs(200), net.inputs(50, seed=2)
    cut = model.clone()
    StripSkips()(cut)
    plain, expected = refitted(model, seen), run(model, other)[0]
    changed = [node.inputs[1].const_value for node in plain.graph if node.op_type == "Conv"]  # type: ignore[union-attr]
    before = [node.inputs[1].const_value for node in model.graph if node.op_type == "Conv"]  # type: ignore[union-attr]
    same = [np.array_equal(a.numpy(), b.numpy()) for a, b in zip(changed, before, strict=True)]  # type: ignore[union-attr]
    assert same == [True, True, False]
    assert distance(plain, expected, other) < distance(cut, expected, other)


def test_statistics_are_those_of_the_new_sums() -> None:
    """Batch normalization by the samples' own statistics gives what it gives by the stored ones."""
    net = Network(3, 8, 8)
    x = net.op("Relu", norm_conv(net, "x", 3, 8))
    y = norm_conv(net, net.op("Relu", norm_conv(net, x, 8, 8)), 8, 8)
    model = net.model(net.op("Add", y, x))
    seen = net.inputs(400)
    plain = refitted(model, seen)
    last = [node for node in plain.graph if node.op_type == "BatchNormalization"][-1]
    product = last.inputs[0]
    assert product is not None
    plain.graph.outputs.append(product)
    sums = run(plain, seen)[1].astype(np.float64)
    _, _, _, mean, variance = (value and value.const_value for value in last.inputs)
    assert mean is not None
    assert variance is not None
    # Drawn from the same samples: 20,000 of 25,600 places.
    np.testing.assert_allclose(mean.numpy(), sums.mean(axis=(0, 2, 3)), atol=0.05)
    np.testing.assert_allclose(variance.numpy(), sums.var(axis=(0, 2, 3)), rtol=0.05)


def test_one_block_of_two_and_what_is_listed() -> None:
    net, model = made(BUILDS[0])
    plain = refitted(model, net.inputs(64), "add2")
    assert [block.name for block in find_blocks(plain.graph)] == ["add1"]
    assert [block.name for block in stripped_blocks(plain)] == ["add2"]
    assert [block.name for block in stripped_blocks(refitted(model, net.inputs(64)))] == ["add1", "add2"]


def test_twice_is_the_same() -> None:
    net, model = made(BUILDS[0])
    x = net.inputs(64)
    once, again = (ir.to_proto(refitted(model, x)).SerializeToString(deterministic=True) for _ in range(2))
    assert once == again


def test_it_needs_samples() -> None:
    net, model = made(BUILDS[0])
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    with pytest.raises(DataError, match="no sample, expected some to refit blocks on"):
        RefitBlocks(inputs=net.inputs(0))(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_pattern_that_matches_nothing_changes_nothing() -> None:
    net, model = made(BUILDS[0])
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    with pytest.raises(LoweringError, match=r"blocks 'layer\*': matches no residual block"):
        RefitBlocks(blocks="layer*", inputs=net.inputs())(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
