"""Sizes of a Resize that follow from its input's become factors; the batch stays open."""

import numpy as np
import pytest

from passes.normalize import normalize
from passes.rewrites.constant_resize import ConstantResize
from qpipe.ir.files.load import load_model
from qpipe.nodes import constant_input
from qpipe.ops import op_of
from qpipe.runtime.gate import run_gate
from support.networks import checked, ops, parse
from support.quantize import finalized, quantized, to_integer, to_qoperator
from support.run import run

CONSTANTS = {
    "zero": np.array([0]), "two": np.array([2]), "more": np.array([6, 8]), "none": np.zeros(0, np.float32),
    "twice": np.array([2, 2], np.float32), "six": np.array([6, 8]), "w": np.ones((3, 2, 1, 1), np.float32),
}  # fmt: skip
SIZES = "s = Shape(r) b = Slice(s, zero, two) k = Concat<axis=0>(b, more)"


def model(resize: str, sizes: str = "", shape: str = "N,2,3,4"):
    text = f"(float[{shape}] x) => (float[] y) {{ r = Relu(x) {sizes} u = {resize} y = Conv(u, w) }}"
    return load_model(parse(text, **{name: array for name, array in CONSTANTS.items() if name in text}))


@pytest.mark.parametrize(("resize", "sizes"), [
    ("Resize(r, , , k)", SIZES), ('Resize<mode="linear">(r, , , k)', SIZES), ("Resize(r, none, none, k)", SIZES),
    ("Resize<axes=[2, -1]>(r, , twice)", ""), ("Resize<axes=[2, 3]>(r, , , six)", ""),
])  # fmt: skip
def test_what_follows_is_a_factor(resize, sizes):
    found = model(resize, sizes)
    x = np.random.default_rng(0).standard_normal((3, 2, 3, 4)).astype(np.float32)
    (expected,) = run(found, x)
    assert ConstantResize()(found).modified
    assert not ConstantResize()(found).modified
    normalize(found)
    assert ops(checked(found)) == ["Relu", "Resize", "Conv"]
    assert constant_input(found.graph.node(1), 2).tolist() == [1, 1, 2, 2]
    assert op_of(found.graph.node(1)).refusal(found.graph.node(1)) is None
    np.testing.assert_array_equal(run(found, x)[0], expected)
    spec = finalized(quantized(found))
    for lowered in (to_qoperator(spec), to_integer(spec)):
        run_gate(spec, lowered)


@pytest.mark.parametrize("found", [
    # Constant already; of computed factors; of an image whose size is open; that keeps its aspect ratio.
    model("Resize(r, , , k)", "k = Constant<value_ints=[1,2,6,8]>()", shape="1,2,3,4"),
    model("Resize(r, , c)", "s = Shape(r) c = Cast<to=1>(s)"),
    model("Resize(r, , , k)", "k = Shape(r)", shape="N,2,H,4"),
    model('Resize<axes=[2, 3], keep_aspect_ratio_policy="not_larger">(r, , , six)'),
])  # fmt: skip
def test_others_stay(found):
    assert not ConstantResize()(found).modified
