import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.rewrites.gather_to_slice import GatherToSlice
from support.networks import build, integers
from support.rewriting import assert_same, assert_stays, network


@given(st.integers(1, 6), st.data())
def test_a_row_of_places(length, data):
    axis = data.draw(st.sampled_from([0, 1, 2, -1]))
    step = data.draw(st.sampled_from([-2, -1, 1, 2, 3]))
    start = data.draw(st.integers(0, length - 1))
    count = data.draw(st.integers(1, length))
    places = [start + i * step for i in range(count) if 0 <= start + i * step < length]
    places = [place - length if data.draw(st.booleans()) else place for place in places]
    shape = [3, 3, 3]
    shape[axis] = length
    model = network(",".join(map(str, shape)), f"y = Gather<axis = {axis}>(x, p)", p=np.array(places))
    assert_same(GatherToSlice(), model, ["Slice"], x=integers(*shape))


@given(st.integers(1, 6), st.data())
def test_one_place(length, data):
    place = data.draw(st.integers(-length, length - 1))
    model = network(f"N,{length},3", "y = Gather<axis = 1>(x, p)", p=np.array(place))
    assert_same(GatherToSlice(), model, ["Slice", "Squeeze"], x=integers(2, length, 3))


@pytest.mark.parametrize("place", [-1, 1])
def test_one_place_of_an_axis_of_any_length(place):
    model = build("(float[N,T,3] x) => (float[A,B] y) { y = Gather<axis = 1>(x, p) }", p=np.array(place))
    assert_same(GatherToSlice(), model, ["Slice", "Squeeze"], x=integers(2, 4, 3))


@pytest.mark.parametrize(
    ("source", "nodes", "places"),
    [
        ("float[N,4]", "y = Gather<axis = 1>(x, p)", [0, 2, 3]),
        ("float[N,4]", "y = Gather<axis = 1>(x, p)", [1, 1]),
        ("float[N,4]", "y = Gather<axis = 1>(x, p)", [[0, 1]]),
        ("float[N,T]", "y = Gather<axis = 1>(x, p)", [-1, 0]),
        ("float[N,4]", "i = Cast<to = 7>(x) y = Gather<axis = 1>(x, i)", None),
        ("int64[N,4]", "y = Gather<axis = 1>(x, p)", [0, 1]),
        ("int64[N,4]", "y = Gather(table, x)", None),
    ],
    ids=["no row", "one place twice", "a table of places", "both ends of any length", "computed", "integers", "tokens"],
)
def test_what_stays(source, nodes, places):
    more = {"p": np.array(places)} if places is not None else {}
    more |= {"table": integers(5, 3)} if "table" in nodes else {}
    kind = "float" if "table" in nodes else source.split("[")[0]
    rank = "A,B,C" if places == [[0, 1]] or places is None else "A,B"
    assert_stays(GatherToSlice(), build(f"({source} x) => ({kind}[{rank}] y) {{ {nodes} }}", **more))
