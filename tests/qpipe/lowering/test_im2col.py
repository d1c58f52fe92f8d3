"""The integer form of convolutions: exact on random shapes, strides and grids, against torch and the QDQ file."""

from hypothesis import given, settings
from hypothesis import strategies as st

from support.networks import Weights
from support.random_grids import ACTIVATIONS, check


@settings(max_examples=40)
@given(st.data())
def test_conv(data):
    draw = data.draw
    groups, inputs, outputs = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    kernel, strides, dilations = (draw(st.tuples(*[st.integers(1, 3)] * 2)) for _ in range(3))
    pads = draw(st.tuples(*[st.integers(0, 2)] * 4))
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w1", groups * outputs, inputs, *kernel)
    w.normal("b1", groups * outputs)
    w.normal("w2", 5, groups * outputs, 1, 1)
    text = f"group={groups}, strides={list(strides)}, dilations={list(dilations)}, pads={list(pads)}"
    nodes = [f"c = Conv<{text}>(x, w1, b1)", f"r = {draw(ACTIVATIONS).format('c')}", "y = Conv(r, w2)"]
    shape = (groups * inputs, draw(st.integers(7, 10)), draw(st.integers(7, 10)))
    check(draw, nodes, shape, w, weights=draw(st.sampled_from(["int8", "uint8"])))


@settings(max_examples=10)
@given(st.data())
def test_depthwise_conv_of_many_channels(data):
    """Wide enough that groups are joined, in runs of unequal length, and that constants are not repeated."""
    draw = data.draw
    channels, each = draw(st.sampled_from([(33, 1), (70, 1), (12, 2), (300, 1), (130, 1), (11, 3)]))
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w1", channels * draw(st.integers(1, 2)), each, 3, 3)
    w.batch_norm("n", len(w.constants["w1"]))
    w.normal("w2", 3, len(w.constants["w1"]), 1, 1)
    nodes = [
        f"c = Conv<group={channels}, pads=[1,1,1,1]>(x, w1)",
        "n = BatchNormalization(c, n_g, n_b, n_m, n_v)",
        f"r = {draw(ACTIVATIONS).format('n')}",
        "y = Conv(r, w2)",
    ]
    check(draw, nodes, (channels * each, 4, 5), w)


@settings(max_examples=10)
@given(st.data())
def test_conv_of_a_row(data):
    draw = data.draw
    w = Weights(draw(st.integers(0, 1000)))
    groups = draw(st.sampled_from([1, 4]))
    w.normal("w1", 8, 4 // groups, draw(st.integers(1, 4)))
    w.normal("w2", 5, 8, 2)
    stride, dilation, pads = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.tuples(*[st.integers(0, 2)] * 2))
    text = f"group={groups}, strides=[{stride}], dilations=[{dilation}], pads={list(pads)}"
    nodes = [f"c = Conv<{text}>(x, w1)", f"r = {draw(ACTIVATIONS).format('c')}", "y = Conv(r, w2)"]
    check(draw, nodes, (4, draw(st.integers(12, 15))), w)


@settings(max_examples=30)
@given(st.data())
def test_conv_of_few_channels_and_a_stride(data):
    """What `fold_stride` rewrites, and what it must leave."""
    draw = data.draw
    channels, stride = draw(st.integers(1, 5)), draw(st.integers(2, 4))
    kernel, pads = draw(st.tuples(*[st.integers(1, 7)] * 2)), draw(st.tuples(*[st.integers(0, 3)] * 4))
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w1", 4, channels, *kernel)
    w.normal("w2", 5, 4, 1, 1)
    nodes = [f"c = Conv<strides=[{stride}, {stride}], pads={list(pads)}>(x, w1)", "r = Relu(c)", "y = Conv(r, w2)"]
    check(draw, nodes, (channels, draw(st.integers(7, 13)), draw(st.integers(7, 13))), w)
