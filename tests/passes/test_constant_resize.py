"""Sizes of a Resize that follow from its input's are constant; the batch stays open."""

import numpy as np
import pytest

from passes.constant_resize import ConstantResize
from passes.normalize import normalize
from qpipe.ir.files.load import load_model
from qpipe.ops import op_of
from support.networks import checked, ops, parse
from support.run import run

SIZES = "s = Shape(x) b = Slice(s, zero, two) k = Concat<axis=0>(b, more)"


def model(shape: str = "N,2,3,4", resize: str = "Resize(x, , , k)", sizes: str = SIZES):
    constants = {"zero": np.array([0]), "two": np.array([2]), "more": np.array([6, 8])}
    constants = {name: array for name, array in constants.items() if name in sizes}
    return load_model(parse(f"(float[{shape}] x) => (float[] y) {{ {sizes} y = {resize} }}", **constants))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_what_follows_is_constant(mode):
    found = model(resize=f'Resize<mode="{mode}">(x, , , k)')
    x = np.random.default_rng(0).standard_normal((3, 2, 3, 4)).astype(np.float32)
    (expected,) = run(found, x)
    assert ConstantResize()(found).modified
    assert not ConstantResize()(found).modified
    normalize(found)
    assert ops(checked(found)) == ["Resize"]
    assert op_of(found.graph.node(0)).refusal(found.graph.node(0)) is None
    np.testing.assert_array_equal(run(found, x)[0], expected)


@pytest.mark.parametrize("found", [
    # Constant already; by factors; of an image whose size is open.
    model(sizes="k = Constant<value_ints=[1,2,6,8]>()", shape="1,2,3,4"),
    model(resize="Resize(x, , c)", sizes="s = Shape(x) c = Cast<to=1>(s)", shape="1,2,3,4"),
    model(shape="N,2,H,4", sizes="k = Shape(x)"),
])  # fmt: skip
def test_others_stay(found):
    assert not ConstantResize()(found).modified
