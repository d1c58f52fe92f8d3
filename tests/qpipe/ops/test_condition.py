"""Conditions on codes are those of the real numbers that the codes stand for, whatever the grids and the constants."""

from __future__ import annotations

import operator

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpipe.arith.spec import QuantSpec
from qpipe.arith.symbolic import Symbol
from qpipe.lowering.ends import add_nodes
from qpipe.lowering.integer_builder import IntegerBuilder
from qpipe.ops.condition import COMPARISONS, condition_of, threshold
from qpipe.runtime.session import open_session
from support.networks import build
from support.run import run_as_written

GRIDS = st.one_of(
    st.builds(QuantSpec.for_range, st.integers(2, 8), st.integers(-60, 60), signed=st.booleans()),
    st.builds(QuantSpec.around, st.integers(-60, 60), st.integers(0, 127).map(lambda half: 2 * half)),
)
WIDE = st.builds(QuantSpec.for_range, st.just(16), st.integers(-20, 20), signed=st.booleans())


def codes_of(grid: QuantSpec) -> np.ndarray:
    """All codes."""
    return np.arange(grid.stored_min, grid.stored_max + 1)


def real(codes: np.ndarray, grid: QuantSpec) -> np.ndarray:
    """What they stand for, float32: exact."""
    return ((codes.astype(np.int64) - grid.zero_point) * grid.scale).astype(np.float32)


@settings(max_examples=200)
@given(
    op=st.sampled_from(sorted(COMPARISONS)),
    grid=st.one_of(GRIDS, WIDE),
    at=st.floats(-300, 300),
    is_on_grid=st.booleans(),
    bound=st.floats(width=32, allow_nan=False),
    is_near=st.booleans(),
)
def test_a_constant_lies_between_two_codes(
    op: str, grid: QuantSpec, at: float, is_on_grid: bool, bound: float, is_near: bool
) -> None:
    constant = np.array((round(at) if is_on_grid else at) * grid.scale if is_near else bound, np.float32)
    codes, compare = codes_of(grid), COMPARISONS[op]
    np.testing.assert_array_equal(compare(codes, threshold(op, constant, grid)), compare(real(codes, grid), constant))


EXPRESSIONS = {
    "two": "c = {op}(a, b)",
    "one and a constant": "c = {op}(a, k)",
    "a constant and one": "c = {op}(k, a)",
    "and, or, not": "l = {op}(a, b) m = Greater(b, k) n = Not(m) o = Xor(l, t) p = And(n, o) c = Or(p, l)",
    "truth": "l = Cast<to=9>(a) m = {op}(b, k) c = And(l, m)",
}


@settings(max_examples=12)
@given(data=st.data(), op=st.sampled_from(sorted(COMPARISONS)), seed=st.integers(0, 999))
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_integers_say_what_onnxruntime_says_of_floats(name: str, data: st.DataObject, op: str, seed: int) -> None:
    """Both on onnxruntime: the graph as it is written, of floats, and its nodes on codes."""
    text, rng = EXPRESSIONS[name].format(op=op), np.random.default_rng(seed)
    first = data.draw(GRIDS)
    # As often near as far apart: equal numbers are on both.
    near = st.builds(
        QuantSpec.for_range, st.just(8), st.integers(-12, 12).map(lambda d: first.exponent + d), signed=st.booleans()
    )
    grids = {"a": first, "b": data.draw(st.one_of(near, GRIDS))}
    codes = {key: rng.choice(codes_of(grid), (64, 6)).astype(np.uint8) for key, grid in grids.items()}
    codes["a"][:32], codes["b"][:32] = grids["a"].zero_point, grids["b"].zero_point
    floats = {key: real(codes[key], grid) for key, grid in grids.items()}
    constants = {
        "k": np.array(data.draw(st.sampled_from([0.0, floats["a"][40, 0], 0.3])), np.float32),
        "t": rng.random(6) < 0.5,
    }
    used = {key: array for key, array in constants.items() if f"{key})" in text or f"{key}," in text}
    model = build(f"(float[N,6] a, float[N,6] b) => (bool[] c) {{ {text} }}", **used)
    expected = run_as_written(model.clone(), **floats)[0]
    condition = condition_of(model.graph.outputs[0])
    assert condition is not None
    found = condition.holds(lambda v: floats[str(v.name)], lambda array: array)
    np.testing.assert_array_equal(np.broadcast_to(found, expected.shape), expected)
    b, inputs = IntegerBuilder(model.graph), dict[str, ir.Value]()
    for key in grids:
        inputs[key] = ir.Value(name=f"{key}_codes", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(["N", 6]))
    written = condition.write(
        b, lambda v: (Symbol(b, inputs[str(v.name)], np.uint8, [6]), grids[str(v.name)]), lambda x: x
    )
    model.graph.inputs[:], model.graph.outputs[:] = [*inputs.values()], [written]
    add_nodes(model, b.nodes)
    session = open_session(model, threads=1, optimize=False)
    given_ = {each.name: codes[each.name.removesuffix("_codes")] for each in session.get_inputs()}
    np.testing.assert_array_equal(session.run(None, given_)[0], expected)


NEAR_MISSES = {
    "integers": "(int64[N] a, int64[N] b) => (bool[] c) { c = Less(a, b) }",
    "an input": "(float[N] a, bool[N] m) => (bool[] c) { l = Less(a, k) c = And(l, m) }",
    "another op": "(float[N] a) => (bool[] c) { c = IsNaN(a) }",
    "no number": "(float[N] a) => (bool[] c) { c = Less(a, nan) }",
    "moved": "(float[N] a, float[N] b) => (bool[] c) { l = Less(a, b) c = Unsqueeze(l, axis) }",
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_what_is_none(name: str) -> None:
    text, constants = NEAR_MISSES[name], {"k": np.float32(1), "nan": np.float32(np.nan), "axis": np.array([1])}
    model = build(text, **{key: array for key, array in constants.items() if f" {key})" in text})
    assert condition_of(model.graph.outputs[0]) is None


def test_the_order_of_operands_is_theirs() -> None:
    assert COMPARISONS["Less"] is operator.lt
    model = build(
        "(float[N] a, float[N] b) => (bool[] c) { l = Less(b, a) m = Greater(a, k) c = Or(m, l) }", k=np.float32(1)
    )
    condition = condition_of(model.graph.outputs[0])
    assert condition is not None
    assert [value.name for value in condition.numbers] == ["a", "b"]
    assert [node.op_type for node in condition.nodes] == ["Or", "Greater", "Less"]
