"""What onnxruntime would refuse to open is refused by node, and what a file declares of shapes is not trusted."""

import numpy as np
import onnx_ir as ir
import pytest

import qpipe
from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from support.networks import parse
from support.zoo.digits import digits_model

ONES = np.ones((4, 3), np.float32)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("[a] y = Add(x, two)", "Add 'a': Incompatible dimensions"),
        ("[g] y = Gemm(x, k)", "Gemm 'g': Dimension mismatch"),
        ("[p] y = MaxPool<kernel_shape=[2]>(x)", "MaxPool 'p': Input tensor must have at least 3 dimensions"),
        ("[m] y = ReduceMean(x, far)", "ReduceMean 'm': axis must be in"),
        ("[f] y = Flatten<axis=9>(x)", "Flatten 'f': Invalid value"),
        ("[c] c = Cast<to=7>(x) [r] d = GlobalAveragePool(c) [b] y = Cast<to=1>(d)", "GlobalAveragePool 'r'?"),
        ("y = Concat<axis=0>(x, k, k, far)", "Concat"),
    ],
)
def test_inputs_that_do_not_fit(nodes: str, message: str) -> None:
    model = parse(f"(float[N,3] x) => (float[] y) {{ {nodes} }}", k=ONES, two=ONES[0, :2], far=np.array([255]))
    for read in (load_model, qpipe.inspect):
        with pytest.raises(ModelError, match=message) as caught:
            read(model)
        assert "\n" not in str(caught.value)


POOL = "AveragePool<kernel_shape=[2,2], dilations=[2,2]>"
SLICE = "Slice(%s, one, eight, two)"


@pytest.mark.parametrize(
    "nodes",
    [
        f"a = SpaceToDepth<blocksize=2>(x) [b] b = {POOL}(a) y = {SLICE % 'b'}",
        f"s = {SLICE % 'x'} p = Pad(s, less) t = {SLICE % 'p'} a = {POOL}(t) [b] b = {POOL}(a) y = {SLICE % 'b'}",
    ],
)
def test_a_slice_of_a_negative_size_is_no_crash(nodes: str) -> None:
    """In onnx 1.23 it ends the process."""
    model = parse(
        f"(float[N,8,2,2] x) => (float[] y) {{ {nodes} }}",
        one=np.array([0]), eight=np.array([8]), two=np.array([2]), less=np.array([0, 0, 0, 0, 0, 0, 0, 0]),
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"'b': what it gives has the sizes \[\d+, \d+, -\d+, -\d+\]|larger than"):
        load_model(model)


def test_declared_shapes_are_those_of_the_nodes() -> None:
    model = digits_model()
    dim = model.graph.output[0].type.tensor_type.shape.dim
    dim.add(dim_value=7)
    dim.add(dim_value=1)
    model.graph.value_info.add(name="c1").type.tensor_type.elem_type = 1
    model.graph.value_info[0].type.tensor_type.shape.dim.add(dim_value=3)
    loaded = load_model(model)
    assert loaded.graph.outputs[0].shape == ir.Shape(["batch", 10])
    shapes = {value.name: value.shape for node in loaded.graph for value in node.outputs}
    assert shapes["c1"] == ir.Shape(["batch", 8, 8, 8])


def test_shapes_behind_an_unknown_op_stay_as_declared() -> None:
    model = parse("(float[N,3] x) => (float[N,5] y) { h = own.Op(x) y = Relu(h) }", opsets='"": 21, "own": 1')
    assert load_model(model).graph.outputs[0].shape == ir.Shape(["N", 5])


def test_the_argument_stays_as_it_was() -> None:
    model = load_model(digits_model())
    before = {value.name: value.shape for node in model.graph for value in node.outputs}
    constants = set(model.graph.initializers)
    load_model(model)
    assert {value.name: value.shape for node in model.graph for value in node.outputs} == before
    assert set(model.graph.initializers) == constants
    assert [value.name for value in model.graph.inputs] == ["x"]


@pytest.mark.parametrize("body", ["y = ReduceMean(x, k)", "a = Flatten(l) y = ReduceMean(x, a)"])
def test_axes_that_are_no_list(body: str) -> None:
    """onnxruntime runs no such node."""
    model = parse(f"(float[N,4] x) => (float[N,1] y) {{ {body} }}", k=np.array(1), l=np.array([1]))
    with pytest.raises(ModelError, match=r"ReduceMean .*: its axes are '[ka]', of [02] dimensions, expected a list"):
        load_model(model)
