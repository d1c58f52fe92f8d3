import numpy as np
import onnx_ir as ir
import pytest

from passes.rewrites.uncast_inputs import UncastInputs
from support.networks import build, ops
from support.rewriting import assert_stays
from support.run import run_as_written

TEXT = "({kind}[N,3] x) => (float[] y) {{ f = Cast<to = {to}>(x) y = Relu(f) {more} }}"


@pytest.mark.parametrize("kind", ["uint8", "int8", "int32", "int64"])
def test_integers_come_as_floats(kind):
    model = build(TEXT.format(kind=kind, to=1, more=""))
    x = np.array([[0, 7, 100]])
    (expected,) = run_as_written(model, x=x.astype(kind))
    assert UncastInputs()(model).modified
    assert ops(model) == ["Relu"]
    assert model.graph.inputs[0].dtype == ir.DataType.FLOAT
    np.testing.assert_array_equal(run_as_written(model, x=x.astype(np.float32))[0], expected)
    assert_stays(UncastInputs(), model)


@pytest.mark.parametrize(
    "text",
    [
        TEXT.format(kind="float", to=1, more=""),
        TEXT.format(kind="uint8", to=1, more="i = Identity(x)"),
        TEXT.format(kind="uint8", to=11, more="").replace("(float[] y)", "(double[] y)"),
        "(uint8[N,3] x) => (float[] f) { f = Cast<to = 1>(x) }",
        "(bool[N,3] x) => (float[] y) { f = Cast<to = 1>(x) y = Relu(f) }",
    ],
    ids=["a float", "another reader", "to double", "an output", "truth values"],
)
def test_what_stays(text):
    assert_stays(UncastInputs(), build(text))
