"""Advice names what stands around a node, and can be followed."""

import re

import numpy as np
import pytest

import qpipe
from support.networks import parse

CONV = "c = Conv<pads = [1, 1, 1, 1]>({x}, w) y = Relu(c)"


def network(nodes, shape="N,3,8,8", kind="float", **constants):
    w = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    return parse(f"({kind}[{shape}] x) => (float[] y) {{ {nodes} }}", w=w, **constants)


def advice(proto):
    return {node.name: node.advice for node in qpipe.inspect(proto).nodes if node.advice}


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ("c = Conv(x, w) [n] s = ReduceMax(c, one) y = Conv(s, v)", "it reduces the first axis"),
    ],
)
def test_advice_looks_at_what_is_around_the_node(nodes, said):
    constants = {
        "k": np.float32([[[2]]]), "one": np.array([0, 1]), "u": np.ones((4, 4, 1, 1), np.float32),
        "v": np.ones((4, 1, 1, 1), np.float32),
    }  # fmt: skip
    names = nodes.replace(",", " ").replace(")", " ").split()
    proto = network(nodes, **{name: array for name, array in constants.items() if name in names})
    assert re.search(said, advice(proto)["n"])


def test_following_the_advice_on_an_offset_helps():
    ones = np.ones(4, np.float32)
    proto = network(
        "c = Conv(x, w) r = Relu(c) s = BatchNormalization(r, one, k, zero, one) y = Conv(s, u)",
        one=ones, k=ones * 0.2, zero=ones * 0, u=np.ones((4, 4, 1, 1), np.float32),
    )  # fmt: skip
    assert qpipe.inspect(proto).ready


def test_following_the_advice_on_depth_to_space_helps():
    proto = network(
        """c = Conv(x, w) r = Relu(c) a = Reshape(r, six) t = Transpose<perm = [0, 3, 4, 1, 5, 2]>(a)
        s = Reshape(t, four) y = Conv(s, u)""",
        six=np.array([-1, 2, 2, 1, 6, 6]), four=np.array([-1, 1, 12, 12]), u=np.ones((4, 1, 1, 1), np.float32),
    )  # fmt: skip
    assert qpipe.inspect(proto).ready


def test_weights_that_are_there_are_not_denied():
    gemms = parse(
        "(float[N,4] x) => (float[N,4] y) { a = Gemm<alpha = 2.0>(x, w) y = Gemm<alpha = 0.5>(a, w) }",
        w=np.eye(4, dtype=np.float32),
    )
    assert qpipe.inspect(gemms).problems == ()
    assert "nothing to quantize" in qpipe.inspect(parse("(float[N,4] x) => (float[N,4] y) { y = Exp(x) }")).problems[0]


def test_several_inputs_are_named():
    proto = parse(
        "(float[N,4] x, float[N,4] x2) => (float[N,4] y) { a = Gemm(x, w) y = Add(a, x2) }",
        w=np.eye(4, dtype=np.float32),
    )
    expected = "one array, the network's inputs are 'x', 'x2': expected one by each name"
    with pytest.raises(qpipe.DataError, match=expected):
        qpipe.calibrate(proto, np.ones((4, 4), np.float32), preprocess={})


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("Pow(c, exponent)", "its exponent is 7"),
        ("Clip(c, six, one)", r"its bounds are \(6, 1\)"),
        ("Pad(c, rows)", "it pads the batch"),
        ("Gather(c, places)", "it picks along axis 0"),
    ],
)
def test_what_is_refused_is_no_part_of_the_layer_before_it(function, said):
    constants = {
        "exponent": np.float32(7), "six": np.float32(6), "one": np.float32(1),
        "rows": np.array([1, 0, 0, 0, 0, 0, 0, 0]), "places": np.array([0, 2, 1]),
    }  # fmt: skip
    used = {name: array for name, array in constants.items() if name in re.findall(r"\w+", function)}
    proto = network(f"c = Conv(x, w) [n] f = {function} y = Conv(f, u)", u=np.ones((4, 4, 1, 1), np.float32), **used)
    (node,) = (node for node in qpipe.inspect(proto).nodes if node.name == "n")
    assert node.role == "float island"
    assert re.search(said, node.advice)


def test_what_was_changed_on_loading_is_a_note():
    proto = parse("(float[N,4] x, float[1] z) => (float[N,4] y) { y = Gemm(x, w) }", w=np.eye(4, dtype=np.float32))
    assert qpipe.inspect(proto).notes == ("model 'small': nothing reads the input 'z': it is left out",)


@pytest.mark.parametrize(
    ("batch", "said"), [("N", "the batch, which is open"), ("2", "numbers that the network computes")]
)
def test_only_what_is_open_is_to_be_closed(batch, said):
    proto = network(
        "c = Conv(x, w) r = Relu(c) m = ReduceMax<keepdims = 0>(r, all) i = Cast<to = 7>(m) d = Unsqueeze(i, zero) "
        "s = Shape<start = 0, end = 1>(x) t = Concat<axis = 0>(s, d, d, d) [n] e = Expand(k, t) y = Conv(e, u)",
        shape=f"{batch},3,8,8", all=np.arange(4), zero=np.array([0]), k=np.float32(1),
        u=np.ones((4, 4, 1, 1), np.float32),
    )  # fmt: skip
    assert said in advice(proto)["n"]
