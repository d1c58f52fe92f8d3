"""What the head of a graph says of the pixels that go in."""

import numpy as np
import pytest

from qpipe.ops.prologue import find_prologue
from support.networks import build

CONV = "y = Conv({}, w)"


def head(nodes, shape="N,3,8,8", kind="float", **constants):
    w = np.ones((4, 3, 1, 1), np.float32)
    return find_prologue(build(f"({kind}[{shape}] x) => (float[] y) {{ {nodes} }}", w=w, **constants).graph)


@pytest.mark.parametrize(
    ("nodes", "source", "takes_bytes", "channels_last"),
    [
        (
            "f = Cast<to = 1>(x) t = Transpose<perm = [0, 3, 1, 2]>(f) d = Div(t, k) s = Sub(d, m)",
            ("N,8,8,3", "uint8"),
            True,
            True,
        ),
        ("d = Div(x, k) s = Sub(d, m)", ("N,3,8,8", "float"), True, False),
        ("d = Sub(x, k) s = Mul(d, small)", ("N,3,8,8", "float"), True, False),
        ("d = Sub(x, m) s = Div(d, m)", ("N,3,8,8", "float"), False, False),
        ("s = Transpose<perm = [0, 3, 1, 2]>(x)", ("N,8,8,3", "float"), False, True),
        ("s = Transpose<perm = [0, 1, 3, 2]>(x)", ("N,3,8,8", "float"), False, False),
    ],
    ids=["bytes in NHWC", "by 255", "by a small factor", "mean and deviation", "channels last", "another order"],
)
def test_a_prologue(nodes, source, takes_bytes, channels_last):
    constants = {"k": np.float32(255), "m": np.float32([0.5, 0.4, 0.3]).reshape(3, 1, 1), "small": np.float32(1 / 128)}
    used = {name: array for name, array in constants.items() if f", {name})" in nodes}
    found = head(f"{nodes} {CONV.format('s')}", *source, **used)
    assert (found.takes_bytes, found.channels_last) == (takes_bytes, channels_last)
    assert [node.op_type for node in found.affine] == [
        node.op_type for node in found.nodes if node.op_type in {"Div", "Sub", "Mul"}
    ]


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        (CONV.format("x"), "N,3,8,8"),
        ("a = Div(x, k) b = Sub(x, k) s = Add(a, b) " + CONV.format("s"), "N,3,8,8"),
        ("s = Div(x, k) y = Flatten(s)", "N,640"),
    ],
    ids=["none", "two paths", "no image"],
)
def test_no_prologue(nodes, shape):
    assert head(nodes, shape, **({"k": np.float32(255)} if "k)" in nodes else {})) is None
