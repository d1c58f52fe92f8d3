import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qpipe
from passes.rewrites.gather_lists import GatherLists
from support.networks import build, integers
from support.rewriting import assert_same, assert_stays, network


@given(st.data(), st.sampled_from([(2, 2), (1, 3), (2, 1, 2)]))
def test_a_table_of_places(data, sizes):
    axis = data.draw(st.sampled_from([0, 1, 2, -1]))
    places = data.draw(st.lists(st.integers(-3, 2), min_size=int(np.prod(sizes)), max_size=int(np.prod(sizes))))
    model = network("3,3,3", f"y = Gather<axis = {axis}>(x, p)", p=np.array(places).reshape(sizes))
    assert_same(GatherLists(), model, ["Gather", "Reshape"], x=integers(3, 3, 3))


def test_of_an_open_batch():
    model = network("N,4,3", "y = Gather<axis = 1>(x, p)", p=np.array([[3, 0], [1, 1]]))
    assert_same(GatherLists(), model, ["Gather", "Reshape"], x=integers(2, 4, 3))


@pytest.mark.parametrize(
    ("source", "nodes", "places"),
    [
        ("float[N,4]", "y = Gather<axis = 1>(x, p)", [0, 2]),
        ("float[N,T,4]", "y = Gather<axis = 2>(x, p)", [[0, 1]]),
        ("float[N,4]", "i = Cast<to = 7>(x) y = Gather<axis = 1>(x, i)", None),
        ("int64[N,4]", "y = Gather<axis = 1>(x, p)", [[0, 1]]),
        ("int64[N,4]", "y = Gather(table, x)", None),
    ],
    ids=["a list", "two sizes are open", "computed", "integers", "tokens"],
)
def test_others_stay(source, nodes, places):
    constants = {"table": np.ones((3, 2), np.float32)} if "table" in nodes else {}
    constants |= {} if places is None else {"p": np.array(places)}
    kind = "float" if "table" in nodes else source.split("[")[0]
    sizes = "A,B" if places == [0, 2] else "A,B,C,D" if "T" in source else "A,B,C"
    assert_stays(GatherLists(), build(f"({source} x) => ({kind}[{sizes}] y) {{ {nodes} }}", **constants))


def test_it_has_an_integer_form():
    w = np.ones((3, 4, 1, 1), np.float32)
    nodes = "c = Conv(x, w) g = Gather<axis = 3>(c, p) f = Flatten(g) y = Gemm(f, v)"
    model = build(
        f"(float[N,4,2,5] x) => (float[] y) {{ {nodes} }}",
        w=w, v=np.ones((24, 2), np.float32), p=np.array([[0, 1], [4, 2]]),
    )  # fmt: skip
    assert {node.role for node in qpipe.inspect(model).nodes} == {"quantized", "carries integers"}
