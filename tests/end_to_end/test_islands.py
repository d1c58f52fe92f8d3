"""Networks with floats in the middle, from the float file to all exports."""

from typing import Literal

import numpy as np
import onnx
import pytest

import qpipe
from qpipe.ir.quantized.certify import check_certificate
from support.networks import Weights, parse

FORMATS: tuple[Literal["qdq", "qoperator", "integer"], ...] = ("qdq", "qoperator", "integer")


def images(*shape: int, count: int = 12) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)


def two_stages() -> onnx.ModelProto:
    """A detector that chooses boxes by NonMaxSuppression, and classifies what it finds there: as many as there are."""
    w = Weights()
    w.normal("w1", 6, 3, 1, 1)
    w.normal("wb", 4, 6, 1, 1)
    w.normal("ws", 1, 6, 1, 1)
    w.normal("w2", 6, 8)
    w.normal("w3", 8, 3)
    w.constants |= {
        "four": np.array([1, 4, 64]), "one": np.array([1, 1, 64]), "six": np.array([6, 64]), "most": np.array([20]),
        "overlap": np.float32(0.5), "least": np.float32(0), "box": np.array(2),
    }  # fmt: skip
    nodes = """
        c = Conv(x, w1) a = Relu(c) b = Conv(a, wb) rows = Reshape(b, four) boxes = Transpose<perm=[0,2,1]>(rows)
        s = Conv(a, ws) scores = Reshape(s, one)
        [choose] chosen = NonMaxSuppression(boxes, scores, most, overlap, least)
        index = Gather<axis=1>(chosen, box) f = Reshape(a, six) t = Transpose<perm=[1,0]>(f)
        found = Gather<axis=0>(t, index) h = Gemm(found, w2) r = Relu(h) y = Gemm(r, w3)
    """
    return parse(f"(float[1,3,8,8] x) => (float[] y) {{ {nodes} }}", **w.constants)


def places() -> onnx.ModelProto:
    """What is not zero, and where: small numbers become zeros, so that there are fewer behind quantizers."""
    w = Weights()
    w.normal("w1", 6, 3, 1, 1)
    w.normal("v", 4, 3)
    nodes = "c = Conv(x, w1) a = Relu(c) [nonzero] n = NonZero(a) t = Transpose<perm=[1,0]>(n) f = Cast<to=1>(t)"
    return parse(f"(float[1,3,8,8] x) => (float[] y) {{ {nodes} y = Gemm(f, v) }}", **w.constants)


def recurrent() -> onnx.ModelProto:
    """A keyword spotter: convolutions over time, a GRU whose last state is read, a classifier."""
    w = Weights()
    w.normal("w1", 8, 4, 3)
    w.normal("w", 1, 48, 8)
    w.normal("r", 1, 48, 16)
    w.normal("v", 16, 3)
    w.constants["first"] = np.array([0])
    nodes = """
        c = Conv<kernel_shape=[3], pads=[1,1]>(x, w1) a = Relu(c) t = Transpose<perm=[2,0,1]>(a)
        [gru] , h = GRU<hidden_size=16>(t, w, r) s = Squeeze(h, first) l = Gemm(s, v) y = Softmax(l)
    """
    return parse(f"(float[N,4,10] x) => (float[] y) {{ {nodes} }}", **w.constants)


def sums() -> onnx.ModelProto:
    """A layer of weights before a normalization, and one, turned, before a running sum: both read int32."""
    w = Weights()
    w.normal("w1", 6, 3, 1, 1)
    w.normal("w2", 6, 6, 3, 3)
    w.normal("w3", 6, 6)
    w.normal("w4", 4, 6, 1, 1)
    w.constants["axis"] = np.array(1)
    nodes = """
        c = Conv(x, w1) a = Relu(c) s = Conv<pads=[1,1,1,1]>(a, w2) [norm] b = LpNormalization<axis=1>(s)
        t = Transpose<perm=[0,2,3,1]>(b) g = MatMul(t, w3) k = Transpose<perm=[0,3,1,2]>(g) u = CumSum(k, axis)
        y = Conv(u, w4)
    """
    return parse(f"(float[N,3,8,8] x) => (float[] y) {{ {nodes} }}", **w.constants)


CASES = {
    "two stages": (two_stages, (3, 8, 8), "choose"),
    "recurrent": (recurrent, (4, 10), "gru"),
    "places": (places, (3, 8, 8), "nonzero"),
    "sums": (sums, (3, 8, 8), "norm"),
}


@pytest.mark.filterwarnings("ignore:.*multiply-accumulates stay float", "ignore:.*was zero")
@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("case", list(CASES))
def test_from_the_float_file_to_an_export(case: str, format_: Literal["qdq", "qoperator", "integer"]) -> None:
    make, shape, island = CASES[case]
    data = images(*shape)
    trainable = qpipe.calibrate(make(), data, batches=1)
    exported = qpipe.export(trainable, format=format_, data=data, integer_only=False)
    assert not check_certificate(exported)
    roles = {node.name: node.role for node in qpipe.inspect(trainable).nodes}
    assert roles[island] == "float island"
