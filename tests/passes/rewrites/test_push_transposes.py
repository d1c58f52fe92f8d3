import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.normalize import normalize
from passes.rewrites.push_transposes import PushTransposes
from passes.rewrites.remove_dead_code import RemoveDeadCode
from support import rewriting
from support.networks import build, integers, ops
from support.rewriting import assert_same, assert_stays

LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
SIZES = (2, 3, 4, 5)


def network(nodes, **constants):
    """From x of rank 4 to y of rank 4."""
    return rewriting.network("2,3,4,5", nodes, **constants)


def check(model, expected_ops):
    assert_same(PushTransposes(), model, x=integers(*SIZES))
    RemoveDeadCode()(model)
    assert ops(model) == expected_ops


@pytest.mark.parametrize(
    ("between", "found"),
    [
        ("m = Relu(t)", ["Relu"]),
        ("m = Clip(t, low, high)", ["Clip"]),
        ("m = Add(t, channels)", ["Add"]),
        ("m = Mul(columns, t)", ["Mul"]),
        ("m = PRelu(t, channels)", ["PRelu"]),
        ("a = Relu(t) b = Add(a, channels) m = Neg(b)", ["Relu", "Add", "Neg"]),
        (f"a = Neg(x) u = Transpose<perm = {LAST}>(a) m = Add(t, u)", ["Neg", "Add"]),
        (f"a = Neg(x) u = Transpose<perm = {LAST}>(a) m = Concat<axis = -1>(t, u)", ["Neg", "Concat"]),
    ],
)
def test_what_is_between_two_orders(between, found):
    nodes = f"t = Transpose<perm = {LAST}>(x) {between} r = Transpose<perm = {FIRST}>(m) y = Abs(r)"
    model = network(
        nodes, low=np.float32(-2), high=np.float32(3), channels=integers(3, seed=1), columns=integers(4, 1, 1)
    )
    check(model, [*found, "Abs"])


@given(st.permutations(range(4)), st.permutations(range(4)))
def test_any_two_orders(first, second):
    model = network(f"s = Neg(x) t = Transpose<perm = {first}>(s) y = Transpose<perm = {second}>(t)")
    is_none = [first[axis] for axis in second] == [0, 1, 2, 3]
    check(model, ["Neg"] if is_none else ["Neg", "Transpose"])


@given(st.permutations(range(4)), st.sets(st.integers(0, 3)))
def test_any_constant_behind_any_order(order, axes):
    shape = [SIZES[order[axis]] if axis in axes else 1 for axis in range(4)]
    model = network(f"s = Neg(x) t = Transpose<perm = {order}>(s) y = Sub(c, t)", c=integers(*shape, seed=1))
    check(model, ["Neg", "Sub", "Transpose"])


@pytest.mark.parametrize(
    "nodes",
    [
        f"t = Transpose<perm = {LAST}>(x) a = Sub(t, channels) y = Relu(a)",
        f"t = Transpose<perm = {LAST}>(x) a = Relu(t) b = Neg(t) y = Concat<axis = 0>(a, b)",
        f"t = Transpose<perm = {LAST}>(x) y = Softmax(t)",
        "t = Transpose<perm = [0, 1, 3, 2]>(x) u = Transpose<perm = [0, 1, 3, 2]>(x) r = Softmax(t) y = Sub(r, u)",
        "t = Transpose<perm = [0, 2, 1, 3]>(x) s = Transpose<perm = [2, 1, 0, 3]>(x) y = Concat<axis = 0>(t, k)",
    ],
    ids=["of the input", "read twice", "not elementwise", "one operand alone", "joined to a constant"],
)
def test_what_stays(nodes):
    assert_stays(PushTransposes(), network(nodes, k=integers(1, 4, 3, 5), channels=integers(3, seed=1)))


def test_an_output_of_the_input_itself_stays():
    nodes = f"t = Transpose<perm = {LAST}>(x) y = Transpose<perm = {FIRST}>(t)"
    assert_stays(PushTransposes(), build(f"(float[2,3,4,5] x) => (float[2,3,4,5] y) {{ {nodes} }}"))


def test_a_factor_of_queries_becomes_a_part_of_their_weights():
    """As PyTorch writes scaled_dot_product_attention: nothing is left that stands between the layer and the factor."""
    model = build(
        """(float[N,3,8] x) => (float[N,2,3,4] y) { m = MatMul(x, w) a = Add(m, b) r = Reshape(a, heads)
        t = Transpose<perm = [0, 2, 1, 3]>(r) y = Mul(t, half) }""",
        w=integers(8, 8), b=integers(8), heads=np.array([0, 3, 2, 4]), half=np.float32(0.5),
    )  # fmt: skip
    normalize(model)
    assert ops(model) == ["Reshape", "Gemm", "Reshape", "Reshape", "Transpose"]
