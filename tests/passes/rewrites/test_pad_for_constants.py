import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.rewrites.pad_for_constants import PadForConstants
from support.networks import build, integers
from support.rewriting import assert_same, assert_stays

SHAPE = [2, 3, 4]


@given(st.lists(st.integers(0, 3), min_size=2, max_size=5), st.sampled_from([1, 2, -1]))
def test_constants_anywhere(lengths, axis):
    """Of length 0 is an activation: x."""
    if all(lengths) or not any(lengths):
        return
    constants = {}
    for i, length in enumerate(lengths):
        shape = [1, *SHAPE[1:]]
        shape[axis] = length
        constants |= {f"c{i}": integers(*shape, seed=i)} if length else {}
    operands = ", ".join(f"c{i}" if length else "x" for i, length in enumerate(lengths))
    text = f"(float[1,3,4] x) => (float[] y) {{ y = Concat<axis = {axis}>({operands}) }}"
    assert_same(PadForConstants(), build(text, **constants), x=integers(1, *SHAPE[1:]))


@pytest.mark.parametrize(
    ("source", "nodes", "shape"),
    [
        ("N,3,4", "a = Relu(x) y = Concat<axis = 1>(a, x)", (1, 1, 4)),
        ("1,3,4", "y = Concat<axis = 0>(x, c)", (1, 3, 4)),
        ("2,3,4", "y = Concat<axis = 1>(x, c)", (2, 1, 4)),
        ("1,T,4", "y = Concat<axis = 1>(x, c)", (1, 1, 4)),
    ],
    ids=["no constant", "along the batch", "rows that differ", "an open size"],
)
def test_what_stays(source, nodes, shape):
    used = {"c": integers(*shape)} if "c)" in nodes else {}
    assert_stays(PadForConstants(), build(f"(float[{source}] x) => (float[A,B,C] y) {{ {nodes} }}", **used))
