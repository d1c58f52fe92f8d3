import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.rewrites.merge_affine import MergeAffine
from support.networks import build, integers
from support.rewriting import assert_same, assert_stays, network

LINKS = st.sampled_from(["Mul(z, c)", "Add(z, c)", "Sub(z, c)", "Sub(c, z)", "Neg(z)", "Div(z, c)"])
SHAPES = st.sampled_from([(), (1,), (4, 1)])


@given(st.lists(st.tuples(LINKS, SHAPES), min_size=2, max_size=4))
def test_any_chain_is_a_factor_and_an_offset(chain):
    constants, lines, value = {}, [], "x"
    for i, (link, shape) in enumerate(chain):
        exact = 2 if "Div" in link else integers(*shape, seed=i)  # a division by 2 is exact
        constants[f"c{i}"] = np.broadcast_to(np.float32(exact), shape).copy()
        lines.append(f"z{i} = {link.replace('z', value).replace('c)', f'c{i})').replace('(c,', f'(c{i},')}")
        value = f"z{i}"
    lines[-1] = lines[-1].replace(f"{value} =", "y =", 1)
    model = network("N,4,3", " ".join(lines), **constants)
    found = [node.op_type for node in model.graph]
    if found == ["Mul", "Add"]:
        assert_stays(MergeAffine(), model)
        return
    assert_same(MergeAffine(), model, x=integers(2, 4, 3))
    assert [node.op_type for node in model.graph] in (["Mul"], ["Add"], ["Mul", "Add"])


def test_a_subtraction_is_an_addition():
    assert_same(MergeAffine(), network("N,3", "y = Sub(x, c)", c=np.float32(0.1)), ["Add"], x=integers(2, 3) / 3)


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Div(x, c)",
        "a = Mul(x, c) b = Add(a, c) y = Max(a, b)",
        "a = Add(x, rows) y = Mul(a, columns)",
        "a = Mul(x, big) y = Mul(a, big)",
        "a = Relu(x) y = Neg(a)",
    ],
    ids=["a division alone", "two readers", "constants that grow", "beyond float32", "no chain"],
)
def test_what_stays(nodes):
    big = np.float32(1e30)
    assert_stays(
        MergeAffine(), network("N,4,3", nodes, c=np.float32(3), rows=integers(4, 1), columns=integers(3), big=big)
    )


def test_what_is_an_output_stays():
    assert_stays(
        MergeAffine(),
        build("(float[N,3] x) => (float[] a, float[] y) { a = Mul(x, c) y = Mul(a, c) }", c=np.float32(3)),
    )
