import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.rewrites.fold_constants import FoldConstants
from passes.rewrites.restore_softmax import RestoreSoftmax
from support.networks import build, ops, parse
from support.run import run_as_written

TEXT = """({x} x) => ({x} y) {{
    s = Shape(x) f = Flatten <axis = {axis}> (x) z = {op} <axis = -1> (f) y = Reshape(z, s) }}"""
# The same sums in another order: a few roundings of 2**-24 on values of at most 1 (8 in logarithms).
FEW_ROUNDINGS = 2.0**-20


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [2, -1])
def test_last_axis(op, axis):
    model = build(TEXT.format(x="float[N,3,5]", axis=axis, op=op))
    x = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)
    expected = run_as_written(model, x=x)[0]
    assert RestoreSoftmax()(model).modified
    assert ops(model) == ["Shape", op]
    assert model.graph.outputs[0].name == "y"
    np.testing.assert_allclose(run_as_written(model, x=x)[0], expected, rtol=0, atol=FEW_ROUNDINGS)
    assert not RestoreSoftmax()(model).modified


def test_folded_shape():
    model = build(
        "(float[1,3,5] x) => (float[1,3,5] y) { f = Flatten <axis = 2> (x) z = Softmax(f) y = Reshape(z, s) }",
        s=np.array([1, 3, 5]),
    )
    assert RestoreSoftmax()(model).modified
    assert ops(model) == ["Softmax"]


def test_what_the_converter_writes_is_restored():
    """It knows no shape behind a Reshape to a computed one, so it flattens."""
    text = "(float[1,3,5] x) => (float[1,3,5] y) { s = Shape(x) r = Reshape(x, s) y = Softmax<axis=2>(r) }"
    proto = parse(text, opsets='"": 9', ir_version=5)
    model = ir.from_proto(onnx.version_converter.convert_version(proto, 21))
    assert "Flatten" in ops(model)
    FoldConstants()(model)
    assert RestoreSoftmax()(model).modified
    assert "Flatten" not in ops(model)


def test_flattened_axes_stay():
    """Over the last two axes at once it is another function."""
    assert not RestoreSoftmax()(build(TEXT.format(x="float[N,3,5]", axis=1, op="Softmax"))).modified


def test_another_shape_stays():
    model = build(
        "(float[1,3,5] x) => (float[3,1,5] y) { f = Flatten <axis = 2> (x) z = Softmax(f) y = Reshape(z, s) }",
        s=np.array([3, 1, 5]),
    )
    assert not RestoreSoftmax()(model).modified


def test_flat_softmax_with_another_reader_stays():
    model = build(
        """(float[N,3,5] x) => (float[N,3,5] y, float[M,5] z) {
            s = Shape(x) f = Flatten <axis = 2> (x) z = Softmax(f) y = Reshape(z, s) }"""
    )
    assert not RestoreSoftmax()(model).modified
