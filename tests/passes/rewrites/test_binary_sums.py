import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.rewrites.binary_sums import BinarySums
from support.networks import integers
from support.rewriting import assert_same, assert_stays, network

BINARY = {"Sum": "Add", "Max": "Max", "Min": "Min"}
OPERANDS = st.lists(st.sampled_from(["x", "c", "row", "column"]), min_size=1, max_size=5)


@given(st.sampled_from(sorted(BINARY)), OPERANDS)
def test_of_any_number(op, operands):
    if op != "Sum" and len(operands) == 2:
        return
    nodes = f"m = {op}({', '.join(operands)}) y = Concat<axis = 0>(m, x)" if "x" in operands else None
    if nodes is None:
        return
    model = network("3,4", nodes, c=integers(3, 4, seed=1), row=integers(4, seed=2), column=integers(3, 1, seed=3))
    inner = [BINARY[op]] * (len(operands) - 1) or ["Identity"]
    assert_same(BinarySums(), model, [*inner, "Concat"], x=integers(3, 4))
    assert all(value.shape is not None for node in model.graph for value in node.outputs)


# Three summands: 1 / 3 is rounded, and the product again, each by 2**-24 of at most 8.
ROUNDED_TWICE = 2 * 8 * 2.0**-24


@pytest.mark.parametrize(("operands", "atol"), [("x, c", 0.0), ("x, c, x", ROUNDED_TWICE), ("x", 0.0)])
def test_a_mean(operands, atol):
    model = network("3,4", f"y = Mean({operands})", c=integers(3, 4, seed=1))
    adds = ["Add"] * operands.count(",")
    assert_same(BinarySums(), model, [*adds, "Mul"] if adds else ["Identity"], atol=atol, x=integers(3, 4))


def test_two_stay():
    assert_stays(BinarySums(), network("3,4", "a = Max(x, x) y = Min(a, x)"))
