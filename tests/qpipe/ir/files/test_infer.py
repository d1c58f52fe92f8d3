"""Shapes are inferred within bounds."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.normalize import normalize
from qpipe.errors import ModelError
from qpipe.ir.files.infer import follows_lists, infer_shapes
from qpipe.ir.files.load import load_model
from support.networks import parse

DOUBLED = " ".join(f"a{i + 1} = Concat<axis = 0>(a{i}, a{i})" for i in range(40))


def network(nodes, **constants):
    return ir.from_proto(parse(f"(float[N,4] x) => (float[N,4] y) {{ y = Relu(x) {nodes} }}", **constants))


@pytest.mark.parametrize(
    ("first", "constants"),
    [
        ("Shape(x)", {}),
        ("Expand(k, n)", {"k": np.float32(1), "n": np.array([2**20])}),
        ("Identity(k)", {"k": np.arange(8)}),
        ("Constant<value_ints = [1, 2]>()", {}),
        ("Constant<value = int64[2] {1, 2}>()", {}),
    ],
)
def test_lists_that_double_are_not_followed(first, constants):
    model = network(f"a0 = {first} {DOUBLED}", **constants)
    assert not follows_lists(model)
    _, follows = infer_shapes(model)
    assert not follows


@pytest.mark.parametrize(("limit", "follows"), [(100, True), (2**62, False)])
def test_lists_that_are_counted(limit, follows):
    model = network("a = Range(zero, limit, one)", zero=np.int64(0), limit=np.int64(limit), one=np.int64(1))
    assert follows_lists(model) == follows


def test_lists_of_millions_are_not_followed():
    assert not follows_lists(network("a = Concat<axis = 0>(k, k)", k=np.arange(2**20)))


def test_what_is_joined_of_images_is_no_list():
    nodes = " ".join(f"a{i + 1} = Concat<axis = 1>(a{i}, a{i})" for i in range(8))
    model = ir.from_proto(parse(f"(float[N,2,4,4] x) => (float[] y) {{ a0 = Relu(x) {nodes} y = Relu(a8) }}"))
    assert follows_lists(model)
    infer_shapes(model)
    assert model.graph.outputs[0].shape == ir.Shape(["N", 512, 4, 4])


def test_numbers_of_a_shape_are_followed():
    text = """(float[N,2,3,4] x) => (float[] y) {
        s = Shape<start = 0, end = 1>(x) t = Concat<axis = 0>(s, rest) r = Reshape(x, t) y = Relu(r) }"""
    model = load_model(parse(text, rest=np.array([24])))
    normalize(model)
    assert [node.op_type for node in model.graph] == ["Reshape", "Relu"]


def test_a_model_of_an_old_opset_with_lists_that_double():
    proto = parse(f"(float[N,4] x) => (float[N,4] y) {{ y = Relu(x) a0 = Shape(x) {DOUBLED} }}", opsets='"": 12')
    with pytest.raises(ModelError, match=r"Concat 'a\d+': its output 'a\d+' has [\d,]+ elements"):
        load_model(proto)
