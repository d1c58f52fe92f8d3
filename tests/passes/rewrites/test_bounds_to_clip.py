import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.rewrites.bounds_to_clip import BoundsToClip
from support.networks import build, integers
from support.rewriting import assert_same, assert_stays, network

X = {"x": integers(3, 4)}
NUMBERS = {"zero": np.float32(0), "six": np.float32([6]), "two": np.float32([[2]]), "low": np.float32(-3)}


@pytest.mark.parametrize(
    ("nodes", "op"),
    [
        ("y = Max(x, zero)", "Relu"),
        ("y = Max(zero, x)", "Relu"),
        ("y = Clip(x, zero)", "Relu"),
        ("y = Max(x, low)", "Clip"),
        ("y = Min(x, six)", "Clip"),
        ("a = Max(x, zero) y = Min(a, six)", "Clip"),
        ("a = Min(x, six) y = Max(a, zero)", "Clip"),
        ("a = Relu(x) y = Min(a, two)", "Clip"),
        ("a = Relu(x) b = Clip(a, low, six) y = Min(b, two)", "Clip"),
        ("a = Relu(x) y = Relu(a)", "Relu"),
    ],
)
def test_bounds(nodes, op):
    assert_same(BoundsToClip(), network("N,4", nodes, **NUMBERS), [op], **X)


@given(st.lists(st.tuples(st.sampled_from(["Max", "Min"]), st.integers(-5, 5)), min_size=1, max_size=4))
def test_any_chain(chain):
    constants = {f"c{i}": np.float32(number) for i, (_, number) in enumerate(chain)}
    lines = [f"v{i + 1} = {op}(v{i}, c{i})" for i, (op, _) in enumerate(chain)]
    nodes = " ".join(["v0 = Erf(x)", *lines, f"y = Identity(v{len(chain)})"])
    assert_same(BoundsToClip(), network("N,4", nodes.replace("Erf", "Neg"), **constants), **X)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ("y = Max(x, each)", {"each": integers(4)}),
        ("y = Max(x, deep)", {"deep": np.zeros((1, 1, 1), np.float32)}),
        ("y = Relu(x)", {}),
        ("y = Clip(x, zero, six)", NUMBERS),
        ("a = Relu(x) b = Clip(a, zero, six) y = Sub(a, b)", NUMBERS),
        ("y = Clip(x, six, zero)", NUMBERS),
    ],
    ids=["one for each", "of more axes", "a Relu", "a Clip", "read twice", "crossed"],
)  # fmt: skip
def test_what_stays(nodes, constants):
    used = {name: array for name, array in constants.items() if f" {name}" in nodes}
    rank = "1,N,4" if "deep" in nodes else "N,4"
    assert_stays(BoundsToClip(), build(f"(float[N,4] x) => (float[{rank}] y) {{ {nodes} }}", **used))


def test_integers_stay():
    assert_stays(BoundsToClip(), build("(int64[N] x) => (int64[N] y) { y = Max(x, zero) }", zero=np.int64(0)))
