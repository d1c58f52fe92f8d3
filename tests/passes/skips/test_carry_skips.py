"""Without its Adds a network gives what it gave with them, in float and in integers."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import qpipe
from passes.skips.carry_skips import CarrySkips
from qpipe.errors import DataError, LoweringError, RecipeError
from qpipe.ir.graph.residual import find_blocks
from qpipe.ir.graph.stripped_blocks import stripped_blocks
from qpipe.ir.quantized.view import read_view
from support.networks import Network, checked, ops
from support.quantize import finalized
from support.run import run
from support.zoo.residual import made, post_activation

FLOAT32 = 1e-5  # of the largest output: sums in another order, and a normalization that is folded


def layer(net: Network, x: str, fan_in: int, out: int, size: int = 3, *, folded: bool, **attributes: Any) -> str:
    y = net.conv(x, fan_in, out, (size, size), bias=folded, **attributes)
    return y if folded else net.norm(y, out)


def basic(net: Network, *, folded: bool) -> str:
    """An identity, and zero channels at every other pixel."""
    x = net.op("Relu", layer(net, "x", 3, 4, folded=folded))
    y = net.op("Relu", layer(net, x, 4, 5, folded=folded))
    x = net.op("Relu", net.op("Add", layer(net, y, 5, 4, folded=folded), x))
    y = net.op("Relu", layer(net, x, 4, 8, folded=folded, strides=[2, 2]))
    steps = [np.array(values) for values in ([0, 0], [2**31, 2**31], [2, 3], [2, 2])]
    skip = net.op("Slice", x, *map(net.constant, steps))
    skip = net.op("Pad", skip, net.constant(np.array([0, 2, 0, 0, 0, 2, 0, 0])))
    return net.op("Relu", net.op("Add", skip, layer(net, y, 8, 8, folded=folded)))


def bottleneck(net: Network, *, folded: bool) -> str:
    """A projection with a stride; three layers, the last of which is followed by nothing."""
    x = net.op("Relu", layer(net, "x", 3, 6, folded=folded))
    y = net.op("Relu", layer(net, x, 6, 3, 1, folded=folded))
    y = net.op("Relu", layer(net, y, 3, 3, folded=folded, strides=[2, 2]))
    return net.op("Add", layer(net, y, 3, 8, 1, folded=folded), layer(net, x, 6, 8, 1, folded=folded, strides=[2, 2]))


def inverted(net: Network, *, folded: bool) -> str:
    """A depthwise layer; ReLU6 in front and within."""
    x = net.relu6(layer(net, "x", 3, 4, folded=folded))
    y = net.relu6(layer(net, x, 4, 12, 1, folded=folded))
    y = net.relu6(layer(net, y, 12, 12, folded=folded, groups=12))
    return net.op("Add", x, layer(net, y, 12, 4, 1, folded=folded))


def single(net: Network, *, folded: bool) -> str:
    """One layer, of numbers below 0 as well: nothing is carried."""
    x = net.conv("x", 3, 4, bias=True)
    return net.op("Relu", net.op("Add", layer(net, x, 4, 4, folded=folded), x))


def matrices(net: Network, *, folded: bool) -> str:
    """Gemm as exporters write it, and transposed."""
    x = net.op("Relu", net.gemm(net.op("Flatten", "x"), 3 * 7 * 6, 5))
    return net.op("Add", net.gemm(net.op("Relu", net.gemm(x, 5, 4)), 4, 5, transposed=False), x)


BLOCKS = pytest.mark.parametrize("block", [basic, bottleneck, inverted, single, matrices], ids=lambda f: f.__name__)
FOLDED = pytest.mark.parametrize("folded", [False, True], ids=["normalized", "folded"])


def carried(model: ir.Model, x: Any = (), blocks: str = "*") -> ir.Model:
    exact = model.clone()
    assert CarrySkips(blocks=blocks, inputs=x)(exact).modified
    return checked(exact)


@BLOCKS
@FOLDED
def test_not_one_value_changes(block: Any, folded: bool) -> None:
    net = Network(3, 7, 6)
    model = net.model(block(net, folded=folded))
    count = len(find_blocks(model.graph))
    # Of normalizations alone does it want to know anything.
    exact = carried(model, () if folded or block is matrices else net.inputs(8))
    assert "Add" not in ops(exact)
    assert len(stripped_blocks(exact)) == count > 0
    for scale in (1.0, 10.0):
        x = net.inputs(9, seed=3, scale=scale)
        expected, found = run(model, x)[0], run(exact, x)[0]
        np.testing.assert_allclose(found, expected, atol=FLOAT32 * np.abs(expected).max(), rtol=0)


@hypothesis_settings(max_examples=12)
@given(
    sizes=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    kernels=st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3])),
    widths=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 3),
)
def test_any_kernel_and_stride(
    sizes: tuple[int, int], kernels: tuple[int, int], widths: tuple[int, int, int], stride: int
) -> None:
    net, (first, inner, last) = Network(2, *sizes), widths
    x = net.op("Relu", net.conv("x", 2, first, bias=True))
    y = net.op("Relu", net.conv(x, first, inner, (kernels[0],) * 2, bias=True, strides=[stride] * 2))
    y = net.conv(y, inner, last, (kernels[1],) * 2, bias=True)
    skip = net.conv(x, first, last, (1, 1), bias=True, strides=[stride] * 2)
    model = net.model(net.op("Add", skip, y))
    x_given = net.inputs(4)
    expected = run(model, x_given)[0]
    found = run(carried(model), x_given)[0]
    np.testing.assert_allclose(found, expected, atol=FLOAT32 * np.abs(expected).max(), rtol=0)


def test_as_many_channels_more_as_the_block_reads() -> None:
    net = Network(3, 7, 6)
    exact = carried(net.model(basic(net, folded=True)))
    shapes = [node.inputs[1].shape for node in exact.graph if node.op_type == "Conv" and node.inputs[1] is not None]
    assert [tuple(shape[:2]) for shape in shapes if shape is not None] == [(4, 3), (9, 4), (4, 9), (12, 4), (8, 12)]


def test_one_block_of_two() -> None:
    net, model = made(post_activation)
    x = net.inputs(8)
    exact = carried(model, x, "add2")
    assert [block.name for block in find_blocks(exact.graph)] == ["add1"]
    assert [block.name for block in stripped_blocks(exact)] == ["add2"]
    np.testing.assert_allclose(run(exact, x)[0], run(model, x)[0], atol=FLOAT32 * 2, rtol=0)


def test_statistics_are_those_of_the_samples() -> None:
    """So that training, which normalizes by those of its batch, begins with the same function."""
    net, model = made(post_activation)
    x = net.inputs(64)
    exact = carried(model, x)
    norms = [node for node in exact.graph if node.op_type == "BatchNormalization"]
    # The second block carries every other pixel, and has the statistics of all.
    norms = [norms[1], norms[2], norms[4]]
    exact.graph.outputs.extend(value for node in norms if (value := node.inputs[0]) is not None)
    for node, sums in zip(norms, run(exact, x)[1:], strict=True):
        mean, variance = (node.inputs[i].const_value.numpy()[-1] for i in (3, 4))  # type: ignore[union-attr]
        own = sums[:, -1].astype(np.float64)
        np.testing.assert_allclose(mean, own.mean(), atol=FLOAT32)
        np.testing.assert_allclose(variance, own.var(), rtol=10 * FLOAT32)


def signed(net: Network) -> str:
    x = net.conv("x", 3, 4, bias=True)
    return net.op("Add", net.conv(net.op("Relu", net.conv(x, 4, 4, bias=True)), 4, 4, bias=True), x)


def bounded(net: Network) -> str:
    x = net.op("Relu", net.conv("x", 3, 4, bias=True))
    return net.op("Add", net.conv(net.relu6(net.conv(x, 4, 4, bias=True)), 4, 4, bias=True), x)


def pooled(net: Network) -> str:
    x = net.op("Relu", net.conv("x", 3, 4, bias=True))
    y = net.op("MaxPool", net.conv(x, 4, 4, bias=True), kernel_shape=[3, 3], pads=[1] * 4)
    return net.op("Add", net.conv(y, 4, 4, bias=True), x)


def grouped(net: Network) -> str:
    x = net.op("Relu", net.conv("x", 3, 4, bias=True))
    y = net.op("Relu", net.conv(net.op("Relu", net.conv(x, 4, 4, bias=True)), 4, 4, groups=2, bias=True))
    return net.op("Add", net.conv(y, 4, 4, bias=True), x)


def elsewhere(net: Network) -> str:
    """The skip begins at the second pixel, the window at the first."""
    x = net.op("Relu", net.conv("x", 3, 4, bias=True))
    y = net.op("Relu", net.conv(x, 4, 4, strides=[2, 2], bias=True))
    steps = [np.array(values) for values in ([1, 1], [2**31, 2**31], [2, 3], [2, 2])]
    return net.op("Add", net.conv(y, 4, 4, bias=True), net.op("Slice", x, *map(net.constant, steps)))


def averaged(net: Network) -> str:
    x = net.op("Relu", net.conv("x", 3, 4, bias=True))
    y = net.op("Relu", net.conv(x, 4, 4, strides=[2, 2], bias=True))
    skip = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    return net.op("Add", net.conv(y, 4, 4, bias=True), skip)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (signed, "it begins with 'conv0_y', which may be negative, expected a Relu's result"),
        (bounded, "its main path cuts off what is above 6, expected that its input is below"),
        (pooled, "its main path is no chain of Conv, Gemm, BatchNormalization and Relu that ends in sums, expected"),
        (grouped, "groups of channels keep its input apart, expected layers of one group, and depthwise ones"),
        (elsewhere, "its skip and its main path look at other pixels, expected the same ones"),
        (averaged, "its skip and its main path look at other pixels, expected the same ones"),
    ],
    ids=lambda given: given.__name__ if callable(given) else "",
)
def test_a_block_that_cannot_be_carried_is_named(block: Any, message: str) -> None:
    net = Network(3, 8, 8)
    model = net.model(block(net))
    (name,) = (each.name for each in find_blocks(model.graph))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    with pytest.raises(LoweringError) as caught:
        CarrySkips()(model)
    assert str(caught.value).startswith(f"strip 'exact': block '{name}': {message}")
    assert str(caught.value).endswith("; --blocks names others")
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_statistics_need_samples() -> None:
    _, model = made(post_activation)
    with pytest.raises(DataError, match="no sample, expected some for the statistics of normalizations"):
        CarrySkips()(model)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [basic, bottleneck], ids=lambda f: f.__name__)
@FOLDED
def test_codes_are_carried_unrounded(block: Any, folded: bool, bits: int) -> None:
    """What lies in a carried channel is the block's input, times a power of two; and the file is proven exact."""
    net = Network(3, 7, 6)
    model = net.model(net.head(net.op("Relu", block(net, folded=folded)), 8))
    # One channel far larger than what the layers within give: their grids differ.
    x = net.inputs(100, scale=3)
    network = qpipe.calibrate(model, x, plain=True, strip="exact", weight_bits=bits, activation_bits=bits, batches=2)
    firsts = [known.layers[0] for known in stripped_blocks(network)]
    final = finalized(network)
    view = [layer for layer in read_view(final).layers if layer.name in firsts]
    assert len(view) == len(firsts) > 0
    for each in view:
        assert each.quantizer is not None
        final.graph.outputs.extend([each.sources[0].output, each.quantizer.output])
    _, *values = run(final, net.inputs(20, seed=5, scale=3))
    for source, result in zip(values[::2], values[1::2], strict=True):
        stride = -(-source.shape[2] // result.shape[2])
        kept = source[:, :, ::stride, ::stride]
        own = result[:, -source.shape[1] :]
        gain = float(own.max() / kept.max())
        assert np.frexp(gain)[0] == 0.5
        np.testing.assert_array_equal(own, kept * np.float32(gain))
        assert len(np.unique(kept)) > 2 ** (bits - 2)
    exported = qpipe.export(network, plain=True)
    assert qpipe.validate([network, exported], x).rows[1].integers_equal


def test_grids_are_powers_of_two() -> None:
    net, model = made(post_activation)
    with pytest.raises(
        RecipeError, match=r"^activation_rounding: 'fill', expected another with skip_bits, fixed range"
    ):
        qpipe.calibrate(model, net.inputs(8), plain=True, strip="exact", activation_rounding="fill")
