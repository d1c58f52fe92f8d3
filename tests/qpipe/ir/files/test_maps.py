"""Outputs that are maps, as scikit-learn's exporter writes them, are tensors once the model is loaded."""

import numpy as np
import onnxruntime as ort
import pytest

from qpipe.ir.files.load import LoadingNote, load_model
from qpipe.ir.files.maps import without_maps
from support.networks import parse
from support.run import run_as_written

OPSETS = '"": 21, "ai.onnx.ml": 3'
ZIPPED = """(float[N,3] x) => (seq(map(int64, float)) scores) {
    p = Softmax(x) scores = ai.onnx.ml.ZipMap<classlabels_int64s = [7, 8, 9]>(p) }"""


def test_the_values_are_those_of_the_map() -> None:
    x, proto = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32), parse(ZIPPED, opsets=OPSETS)
    with pytest.warns(LoadingNote, match="the output 'scores' is a map for each sample: here it is their values"):
        model = load_model(proto)
    (rows,) = ort.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    (found,) = run_as_written(model, x=x)
    np.testing.assert_array_equal(found, np.array([[row[key] for key in (7, 8, 9)] for row in rows], np.float32))
    assert [value.name for value in model.graph.outputs] == ["scores"]


def test_the_argument_stays_as_it_was() -> None:
    proto = parse(ZIPPED, opsets=OPSETS)
    before = proto.SerializeToString()
    changed, names = without_maps(proto)
    assert names == ["scores"]
    assert changed is not proto
    assert proto.SerializeToString() == before


def test_without_a_map_it_is_the_model_itself() -> None:
    proto = parse("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    assert without_maps(proto) == (proto, [])
