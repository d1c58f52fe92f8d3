import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.rewrites.split_to_slices import SplitToSlices
from support.networks import build, integers, ops
from support.rewriting import assert_same, assert_stays


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(-3, 2))
def test_sizes(sizes, axis):
    shape = [2, 3, 4]
    shape[axis] = sum(sizes)
    names = ", ".join(f"y{i}" for i in range(len(sizes)))
    outputs = ", ".join(f"float[] y{i}" for i in range(len(sizes)))
    text = f"(float[{','.join(map(str, shape))}] x) => ({outputs}) {{ {names} = Split<axis = {axis}>(x, s) }}"
    model = build(text, s=np.array(sizes))
    assert_same(SplitToSlices(), model, ["Slice"] * len(sizes), x=integers(*shape))


@given(st.integers(1, 9), st.integers(1, 4))
def test_a_number_of_parts(length, count):
    if -(-length // count) * (count - 1) >= length:
        return  # onnxruntime has no part of nothing
    names = ", ".join(f"y{i}" for i in range(count))
    outputs = ", ".join(f"float[] y{i}" for i in range(count))
    text = f"(float[N,{length}] x) => ({outputs}) {{ {names} = Split<axis = 1, num_outputs = {count}>(x) }}"
    assert_same(SplitToSlices(), build(text), ["Slice"] * count, x=integers(2, length))


def test_what_nobody_reads_is_not_cut_out():
    text = "(float[N,6] x) => (float[] y) { a, b, c = Split<axis = 1>(x, s) y = Relu(b) }"
    assert_same(SplitToSlices(), build(text, s=np.array([1, 2, 3])), ["Slice", "Relu"], x=integers(2, 6))


@pytest.mark.parametrize(
    ("source", "split"),
    [
        ("float[N,A]", "Split<axis = 1, num_outputs = 2>(x)"),
        ("float[N,4]", "Split<axis = 1>(x, computed)"),
        ("int64[N,4]", "Split<axis = 1, num_outputs = 2>(x)"),
    ],
    ids=["an unknown length", "computed sizes", "integers"],
)
def test_what_stays(source, split):
    kind = source.split("[")[0]
    before = "computed = Identity(k)" if "computed" in split else ""
    text = f"({source} x, int64[2] k) => ({kind}[A,B] y, {kind}[A,B] z) {{ {before} y, z = {split} }}"
    model = build(text)
    assert_stays(SplitToSlices(), model)
    assert ops(model)[-1] == "Split"
