import numpy as np
import pytest

import qpipe
from passes.keep_first_axis import KeepFirstAxis
from support.networks import build, integers
from support.rewriting import assert_same, assert_stays, network

W = {"w": np.ones((3, 3, 1, 1), np.float32)}


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"])
@pytest.mark.parametrize(
    ("call", "axes"),
    [("(x)", None), ("(x, axes)", [0, 2]), ("(x, axes)", [-4, -1, 1]), ("(x, axes)", [])],
    ids=["all", "some", "from the end", "none are all"],
)
def test_the_axes_stay_that_hold_more_than_one(op, call, axes):
    constants = {} if axes is None else {"axes": np.array(axes, np.int64)}
    model = network("1,3,4,2", f"y = {op}{call}", **constants)
    assert_same(KeepFirstAxis(), model, [op], x=integers(1, 3, 4, 2))
    (node,) = model.graph
    assert 0 not in node.inputs[1].const_value.numpy()


@pytest.mark.parametrize("other", ["x", "k"])
def test_one_number_keeps_all_axes_beside_others(other):
    nodes = f"m = ReduceMean<keepdims = 0>(x) y = Div({other}, m)"
    model = network("1,3,4,2", nodes, k=integers(1, 3, 4, 2))
    assert_same(KeepFirstAxis(), model, ["ReduceMean", "Div"], x=integers(1, 3, 4, 2))


@pytest.mark.parametrize(
    ("shape", "nodes", "axes"),
    [
        ("N,3,4", "y = ReduceMean(x)", None),
        ("2,3,4", "y = ReduceMean(x)", None),
        ("1,3,4", "y = ReduceMean(x, axes)", [1, 2]),
        ("1,3,4", "y = ReduceMean(x, axes)", [0]),
        ("1,3,4", "y = ReduceMean<keepdims = 0>(x)", None),
        ("1,3,4", "y = ReduceMean<keepdims = 0>(x, axes)", [0, 1]),
        ("1,3,4", "m = ReduceMean<keepdims = 0>(x) y = Add(m, m)", None),
        ("1,3,4", "y = ReduceMean<noop_with_empty_axes = 1>(x)", None),
    ],
    ids=["open", "two images", "others", "alone", "read by nobody", "an axis less", "no axes beside it", "nothing"],
)
def test_what_stays(shape, nodes, axes):
    assert_stays(KeepFirstAxis(), network(shape, nodes, **({} if axes is None else {"axes": np.array(axes)})))


def test_a_map_over_the_mean_of_its_square_has_an_integer_form():
    nodes = """c = Conv(x, w) r = Relu(c) s = Mul(r, r) m = ReduceMean<keepdims = 0>(s) d = Div(r, m) y = Conv(d, w)"""
    model = build(f"(float[1,3,4,4] x) => (float[] y) {{ {nodes} }}", **W)
    assert "float island" not in {node.role for node in qpipe.inspect(model).nodes}
