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


PROLOGUES = {
    "bytes in NHWC": (
        "[cast] f = Cast<to = 1>(x) [turn] t = Transpose<perm = [0, 3, 1, 2]>(f) "
        "[div] d = Div(t, k) [sub] s = Sub(d, m)",
        {"k": np.float32(255), "m": np.array([0.5, 0.4, 0.3], np.float32).reshape(1, 3, 1, 1)},
        ("N,8,8,3", "uint8"),
        "take Cast 'cast', Transpose 'turn', Div 'div', Sub 'sub' out of the network, so that it takes [N, C, H, W], "
        "and give --pixel-range 255 --mean 127.5,102,76.5 --std 255",
    ),
    "mean and deviation": (
        "[sub] d = Sub(x, m) [div] s = Div(d, k)",
        {"m": np.float32([[0.485]]), "k": np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)},
        ("N,3,8,8", "float"),
        "take Sub 'sub', Div 'div' out of the network and give --pixel-range 1 --mean 0.485 --std 0.229,0.224,0.225",
    ),
    "to -1 and 1": (
        "[mul] d = Mul(k, x) [add] s = Add(d, m)",
        {"k": np.float32([1 / 128]), "m": np.float32(-1)},
        ("N,3,8,8", "float"),
        "take Mul 'mul', Add 'add' out of the network and give --pixel-range 255 --mean 128 --std 128",
    ),
    "a negative factor": (
        "[sub] s = Sub(m, x)",
        {"m": np.float32(1)},
        ("N,3,8,8", "float"),
        "preprocessing with a factor that is not above 0: apply Sub 'sub' to the data instead",
    ),
    "a mean image": (
        "[sub] s = Sub(x, m)",
        {"m": np.ones((1, 3, 8, 8), np.float32)},
        ("N,3,8,8", "float"),
        "preprocessing that differs from pixel to pixel: apply Sub 'sub' to the data instead",
    ),
}


@pytest.mark.parametrize(("nodes", "constants", "source", "said"), PROLOGUES.values(), ids=PROLOGUES)
def test_what_stands_before_the_first_weights_is_preprocessing(nodes, constants, source, said):
    proto = network(f"{nodes} {CONV.format(x='s')}", *source, **constants)
    found = advice(proto)
    assert found
    assert all(text.endswith(said) for text in found.values())


def test_the_options_do_what_the_nodes_did():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8)).astype(np.uint8)
    k, m = np.float32(0.017), np.array([0.2, -0.5, 1.5], np.float32).reshape(3, 1, 1)
    proto = network(f"d = Mul(x, k) s = Add(d, m) {CONV.format(x='s')}", k=k, m=m)
    options = next(iter(advice(proto).values())).split("--")[1:]
    given = {option.split()[0]: [float(number) for number in option.split()[1].split(",")] for option in options}
    mean, std = (np.array(given[name]).reshape(-1, 1, 1) for name in ("mean", "std"))
    assert given["pixel-range"] == [255]
    # Seven digits of each number, relative to values of up to about 6.
    np.testing.assert_allclose((pixels - mean) / std, pixels * k + m, rtol=0, atol=6e-6)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (
            "c = Conv(x, w) [n] s = Mul(c, k) y = Conv(s, u)",
            "a constant factor: put it into the weights and bias of Conv 'Conv_c' before it",
        ),
        (
            "c = Conv(x, w) r = Relu(c) [n] s = Mul(r, k) y = Conv(s, u)",
            "put it into the weights of Conv '.*' behind it",
        ),
        ("c = Conv(x, w) r = Relu(c) [n] s = Add(r, k) y = Conv(s, u)", "write it as a BatchNormalization of mean 0"),
        ("c = Conv(x, w) r = Relu(c) [n] s = Add(r, f) y = Conv(s, u)", "a constant offset has no integer form here"),
        ("c = Conv(x, w) d = Conv(x, w) [n] s = Sub(d, c) y = Conv(s, u)", "the sign in the weights and bias of Conv"),
        ("c = Conv(x, w) d = Relu(c) [n] s = Sub(c, d) y = Conv(s, u)", "replace it by ops that have an integer form"),
        ("c = Conv(x, w) [n] s = Max(c, z) y = Conv(s, u)", "write Max of 0 as Relu"),
        ("c = Conv(x, w) [n] s = ReduceMax(c, one) y = Conv(s, v)", "replace it by ops"),
        ("c = Conv(x, w) [n] s = ReduceMax(c, hw) y = Conv(s, u)", "write it as a MaxPool"),
    ],
)
def test_advice_looks_at_what_is_around_the_node(nodes, said):
    constants = {
        "k": np.float32([[[2]]]), "z": np.float32(0), "one": np.array([1]), "hw": np.array([2, 3]),
        "f": np.ones((4, 6, 6), np.float32), "u": np.ones((4, 4, 1, 1), np.float32),
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
    with pytest.raises(qpipe.ModelError, match="inputs are 'x', 'x2': expected exactly one"):
        qpipe.calibrate(proto, np.ones((4, 4), np.float32), preprocess={})


def test_what_was_changed_on_loading_is_a_note():
    proto = parse("(float[N,4] x, float[1] z) => (float[N,4] y) { y = Gemm(x, w) }", w=np.eye(4, dtype=np.float32))
    assert qpipe.inspect(proto).notes == ("model 'small': nothing reads the input 'z': it is left out",)


def test_a_factor_and_an_offset_go_into_the_layer_together():
    """What a Keras user has of BatchNormalization."""
    proto = parse(
        "(float[N,4] x) => (float[N,4] y) { "
        "a = Gemm(x, w) b = Mul(a, k) [n] c = Add(b, m) d = Relu(c) y = Gemm(d, w) }",
        w=np.eye(4, dtype=np.float32), k=np.full(4, 2, np.float32), m=np.ones(4, np.float32),
    )  # fmt: skip
    assert advice(proto)["n"] == (
        "a constant offset: put it, with Mul 'Mul_b', into the weights and bias of Gemm 'Gemm_a' before it"
    )


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
