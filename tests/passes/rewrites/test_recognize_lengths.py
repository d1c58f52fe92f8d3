"""Roots of few squares are lengths, however they are written; the numbers stay."""

import numpy as np
import pytest

from passes.rewrites.recognize_lengths import RecognizeLengths
from passes.rewrites.remove_dead_code import RemoveDeadCode
from support.networks import build
from support.rewriting import assert_same, assert_stays

RNG = np.random.default_rng(0)
TEXT = "(float[N,4,6] x) => (float[] y) {{ {} y = MatMul(m, w) }}"
W = RNG.standard_normal((6, 3)).astype(np.float32)
NUMBERS = {
    "two": np.float32(2), "three": np.float32(3), "zero": np.array([0]), "half": np.array([2]),
    "end": np.array([2**31]), "one": np.array([1]), "last": np.array([2]), "first": np.array([1]),
}  # fmt: skip
PARTS = "a = Slice(x, zero, half, one) b = Slice(x, half, end, one) "
SUM = "a2 = Pow(a, two) b2 = Pow(b, two) s = Add(a2, b2) m = Sqrt(s)"
SAME = {
    "halves": (PARTS + SUM, ["Reshape", "ReduceL2", "MatMul"]),
    "others": (
        "a = Relu(x) b = Abs(x) " + SUM,
        ["Relu", "Abs", "Concat", "Reshape", "ReduceL2", "MatMul"],
    ),
    "moved": (
        PARTS + SUM.replace("Sqrt(s)", "Sqrt(u)").replace("m =", "t = Unsqueeze(s, zero) u = Squeeze(t, zero) m ="),
        ["Reshape", "ReduceL2", "Unsqueeze", "Squeeze", "MatMul"],
    ),
    "the other way": (PARTS.replace("a =", "c =").replace("b =", "a =").replace("c =", "b =") + SUM, None),
    "a sum": ("h = Slice(x, zero, half, one) q = Pow(h, two) s = ReduceSum<keepdims=1>(q, one) m = Sqrt(s)",
              ["Slice", "ReduceL2", "MatMul"]),
}  # fmt: skip
STAY = {
    "cubes": PARTS + SUM.replace("Pow(a, two)", "Pow(a, three)"),
    "many": "q = Pow(x, two) s = ReduceSum<keepdims=1>(q, last) r = Sqrt(s) m = Expand(r, six)",
    "other sizes": "a = Relu(x) b = Slice(x, zero, first, one) " + SUM,
    "an offset": PARTS + SUM.replace("Sqrt(s)", "Sqrt(t)").replace("m =", "t = Add(s, three) m ="),
}


def model_of(nodes: str):
    known = {**NUMBERS, "six": np.array([1, 1, 6])}
    used = {name: array for name, array in known.items() if f"{name})" in nodes or f"{name}," in nodes}
    return build(TEXT.format(nodes), w=W, **used)


@pytest.mark.parametrize("name", SAME)
def test_the_numbers_stay(name):
    nodes, ops = SAME[name]
    model = model_of(nodes)
    x = RNG.standard_normal((3, 4, 6)).astype(np.float32)
    x[0] = 0
    found = model.clone()
    RecognizeLengths()(found)
    RemoveDeadCode()(found)
    assert ops is None or [node.op_type for node in found.graph] == ops
    assert_same(RecognizeLengths(), model, atol=1e-5, x=x)


@pytest.mark.parametrize("name", STAY)
def test_what_stays(name):
    assert_stays(RecognizeLengths(), model_of(STAY[name]))
