import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.rewrites.squeeze_axes import SqueezeAxes
from qpipe.nodes import constant_input
from support.networks import build, integers
from support.rewriting import assert_same, assert_stays


@given(st.lists(st.integers(1, 2), max_size=4), st.sampled_from(["N", "1", "3"]))
def test_axes_of_one(sizes, batch):
    rows = 3 if batch == "N" else int(batch)
    kept = [size for size in sizes if size > 1] if rows > 1 else [size for size in [rows, *sizes] if size > 1]
    rank = ",".join("ABCDE"[: len(kept) + (rows > 1)])
    text = f"(float[{','.join([batch, *map(str, sizes)])}] x) => (float[{rank}] y)"
    model = build(f"{text} {{ s = Squeeze(x) y = Relu(s) }}")
    if 1 not in sizes and batch != "1":
        assert_same(SqueezeAxes(), model, ["Identity", "Relu"], x=integers(rows, *sizes))
        return
    assert_same(SqueezeAxes(), model, ["Squeeze", "Relu"], x=integers(rows, *sizes))
    axes = constant_input(model.graph.node(0), 1).tolist()
    assert (0 in axes) == (batch == "1")
    assert model.graph.node(1).outputs[0].shape is not None


@pytest.mark.parametrize("text", [
    "(float[N,T,1] x) => (float[A,B] y) { s = Squeeze(x) y = Relu(s) }",
    "(float[N,4,1] x) => (float[A,B] y) { y = Squeeze(x, a) }",
], ids=["an unknown size", "axes"])  # fmt: skip
def test_what_stays(text):
    assert_stays(SqueezeAxes(), build(text, **({"a": np.array([2])} if "a)" in text else {})))
