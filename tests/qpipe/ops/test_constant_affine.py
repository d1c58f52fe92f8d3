"""The map of a node by constants, and the same map on the other side of what moves numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.ops.constant_affine import constant_affine
from support.networks import build, integers
from support.rewriting import network


@st.composite
def carriers(draw):
    """x's sizes, a Reshape's or a Transpose's text, and the result's sizes."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    if draw(st.booleans()):
        order = draw(st.permutations(range(len(sizes))))
        return sizes, f"Transpose<perm = {list(order)}>(x)", [sizes[axis] for axis in order], {}
    target, left = [], math.prod(sizes)
    for _ in range(draw(st.integers(0, 3))):
        target.append(draw(st.sampled_from([n for n in range(1, left + 1) if left % n == 0])))
        left //= target[-1]
    target.append(left)
    return sizes, "Reshape(x, target)", target, {"target": np.array(target)}


@given(carriers(), st.data())
def test_a_map_behind_a_carrier_equals_one_before_it(carrier, data):
    sizes, text, target, constants = carrier
    sides = (sizes, target)
    own = data.draw(st.sampled_from([0, 1]))
    shape = [data.draw(st.sampled_from([1, size])) for size in sides[own]]
    factor, offset = integers(*shape, seed=1), integers(*shape, seed=2)
    where = "x" if own == 0 else "t"
    texts = [f"m = Mul({where}, f)", "a = Add(m, o)"]
    lines = [f"t = {text}", *texts] if own else [*texts, "t = " + text.replace("(x", "(a")]
    lines.append(f"y = Identity({'a' if own else 't'})")
    model = network(",".join(map(str, sizes)), " ".join(lines), f=factor, o=offset, **constants)
    nodes = {node.outputs[0].name: node for node in model.graph}
    affine = constant_affine(nodes["m"]).then(constant_affine(nodes["a"]))
    moved = affine.before(nodes["t"]) if own else affine.behind(nodes["t"])
    if moved is None:
        return
    x = integers(*sizes, seed=3).astype(np.float64)

    def carry(array):
        if "target" in constants:
            return array.reshape(target)
        return array.transpose(nodes["t"].attributes["perm"].as_ints())

    before, behind = (moved, affine) if own else (affine, moved)
    assert before.factor.ndim == len(sizes)
    assert behind.factor.ndim == len(target)
    np.testing.assert_array_equal(carry(x * before.factor + before.offset), carry(x) * behind.factor + behind.offset)


@pytest.mark.parametrize(
    ("source", "target", "shape", "before"),
    [
        ("N,6,1,1", [-1, 6], (6,), (1, 6, 1, 1)),
        ("N,2,5", [-1, 5], (5,), (1, 1, 5)),
        ("N,5", [-1, 1, 5], (1, 5), (1, 5)),
        ("N,2,3,4", [-1, 6, 4], (6, 1), (1, 2, 3, 1)),
        ("N,6,4", [-1, 2, 3, 4], (2, 1, 1), (1, 6, 1)),
        ("N,6", [-1, 2, 3], (2, 1), (1, 6)),
        ("N,6", [-1, 4], (4,), None),
    ],
)
def test_an_open_batch_keeps_its_place(source, target, shape, before):
    model = build(
        f"(float[{source}] x) => (float[] y) {{ t = Reshape(x, target) y = Mul(t, f) }}",
        target=np.array(target), f=np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape),
    )  # fmt: skip
    reshape, product = model.graph
    moved = constant_affine(product).before(reshape)
    assert (None if moved is None else moved.factor.shape) == before


@pytest.mark.parametrize(
    ("node", "factor", "offset"),
    [
        ("Add(x, c)", 1, 4),
        ("Add(c, x)", 1, 4),
        ("Sub(x, c)", 1, -4),
        ("Sub(c, x)", -1, 4),
        ("Mul(c, x)", 4, 0),
        ("Div(x, c)", 0.25, 0),
        ("Neg(x)", -1, 0),
    ],
)
def test_each_op(node, factor, offset):
    affine = constant_affine(network("N,3", f"y = {node}", c=np.float32(4)).graph.node(0))
    assert (affine.factor.item(), affine.offset.item()) == (factor, offset)
    assert affine.x.name == "x"


@pytest.mark.parametrize(
    ("shape", "node", "c"),
    [
        ("N,3", "Div(c, x)", np.float32(4)),
        ("N,3", "Div(x, c)", np.float32([1, 0, 2])),
        ("N,3", "Mul(x, c)", np.ones((2, 1, 3), np.float32)),
        ("N,1", "Mul(x, c)", np.ones(3, np.float32)),
        ("N,3", "Mul(x, c)", np.ones((2, 1), np.float32)),
        ("N,3", "Mul(x, c)", np.float32(np.inf)),
        ("N,3", "Add(x, x)", np.float32(1)),
        ("N,3", "Relu(x)", np.float32(1)),
    ],
    ids=["reciprocal", "by zero", "more axes", "a longer axis", "the open batch", "infinite", "no constant", "no map"],
)  # fmt: skip
def test_what_is_no_map_of_one_shape(shape, node, c):
    model = network(shape, f"y = {node}", c=c)
    assert constant_affine(model.graph.node(0)) is None


def test_integers_are_shape_arithmetic():
    model = build("(int64[N,3] x) => (int64[] y) { y = Mul(x, c) }", c=np.int64(2))
    assert constant_affine(model.graph.node(0)) is None
