"""What no form computes as ONNX says is refused by its op, which `inspect` asks before anything is calibrated."""

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.ops import op_of
from support.networks import parse

F = np.float32
POOL = "kernel_shape=[2], strides=[2]"
COUNTED = "pads=[1, 1], ceil_mode=1, count_include_pad=1"


def refusal(text: str, shape: str, **constants: object) -> str | None:
    proto = parse(f"(float[{shape}] x) => (float[] y) {{ y = {text} }}", **constants)
    node = ir.from_proto(proto).graph.node(0)
    found = op_of(node).refusal(node)
    return None if found is None else str(found)


@pytest.mark.parametrize(("text", "shape", "constants", "expected"), [
    ("Clip(x, low, high)", "N,4", {"low": F(0), "high": F(-1)}, "its bounds are (0, -1)"),
    ("Clip(x, low, high)", "N,4", {"low": F(6), "high": F(0)}, "its bounds are (6, 0)"),
    ("Clip(x, low, high)", "N,4", {"low": F(0), "high": F(0)}, "its bounds are (0, 0)"),
    ("Gemm<alpha=2.0>(x, w)", "N,4", {"w": np.ones((4, 2), F)}, "alpha is 2"),
    ("Gemm<beta=0.5>(x, w, b)", "N,4", {"w": np.ones((4, 2), F), "b": np.ones(2, F)}, "beta is 0.5"),
    ("Gemm<transA=1>(x, w)", "4,4", {"w": np.ones((4, 2), F)}, "transA is 1"),
    ("AveragePool<kernel_shape=[2, 2], dilations=[2, 1]>(x)", "N,2,6,6", {}, "its dilations are [2, 1]"),
    ("AveragePool<kernel_shape=[2, 2, 2, 2]>(x)", "N,2,4,4,4,4", {}, "it has 4 spatial dimensions"),
    ("MaxPool<kernel_shape=[2, 2, 2, 2]>(x)", "N,2,4,4,4,4", {}, "it has 4 spatial dimensions"),
    (f"AveragePool<{POOL}, {COUNTED}>(x)", "N,2,L", {}, "it counts pads and rounds up"),
    ("MaxPool<kernel_shape=[2], dilations=[3]>(x)", "N,2,3", {}, "its window of [4] pixels is larger"),
    ("Conv(x, w)", "N,1,3", {"w": np.ones((1, 1, 4), F)}, "its window of [4] pixels is larger"),
    (f"AveragePool<{POOL}, auto_pad=\"SAME_UPPER\">(x)", "N,2,L", {}, "auto_pad is 'SAME_UPPER'"),
    ("MaxPool<kernel_shape=[2], strides=[4], dilations=[4], ceil_mode=1>(x)", "N,2,6", {}, "hangs over the end"),
])  # fmt: skip
def test_it_says_why(text, shape, constants, expected):
    assert expected in (refusal(text, shape, **constants) or "")


@pytest.mark.parametrize(("text", "shape", "constants"), [
    ("Clip(x, low, high)", "N,4", {"low": np.zeros(1, F), "high": np.full(1, 6, F)}),
    ("Gemm<alpha=1.0, beta=1.0>(x, w)", "N,4", {"w": np.ones((4, 2), F)}),
    (f"AveragePool<{POOL}, dilations=[1]>(x)", "N,2,9", {}),
    (f"AveragePool<{POOL}, {COUNTED}>(x)", "N,2,9", {}),
    (f"MaxPool<{POOL}, dilations=[2], ceil_mode=1>(x)", "N,2,9", {}),
    ("Pad(x, pads, , axes)", "N,2,9", {"pads": np.array([1, 1]), "axes": np.array([-1])}),
])  # fmt: skip
def test_what_has_a_form(text, shape, constants):
    assert refusal(text, shape, **constants) is None
