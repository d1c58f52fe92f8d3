"""Masks become numbers, casts of comparisons choices, and no two Where ask through the same nodes."""

import numpy as np
import pytest

from passes.rewrites.conditions_to_numbers import ConditionsToNumbers
from passes.rewrites.remove_dead_code import RemoveDeadCode
from support.networks import build, ops
from support.run import run_as_written

ZERO, ONE = np.float32(0), np.float32(1)
MATCHES = {
    "a mask": ("bool[N,4] m", "y = Where(m, x, zero)", ["Cast", "Cast", "Where"]),
    "of tokens, of fewer axes": (
        "int64[4] m", "l = Greater(m, k) y = Where(l, x, zero)", ["Greater", "Unsqueeze", "Cast", "Cast", "Where"],
    ),
    "with a comparison": (
        "bool[N,4] m", "l = Less(x, zero) n = Not(m) a = And(l, n) y = Where(a, zero, x)",
        ["Not", "Less", "Cast", "Cast", "And", "Where"],
    ),
    "a comparison that is cast": (
        "float[N,4] m", "l = Less(x, m) c = Cast<to=1>(l) y = Mul(c, x)", ["Less", "Where", "Mul"],
    ),
    "one that two ask": (
        "float[N,4] m", "l = Less(x, m) a = Where(l, x, m) b = Where(l, m, zero) y = Add(a, b)",
        ["Less", "Less", "Where", "Where", "Add"],
    ),
}  # fmt: skip
NEAR_MISSES = {
    "a look-up": ("bool[N,4] m", "y = Where(m, zero, one)"),
    "a truth value that is cast": ("bool[N,4] m", "c = Cast<to=1>(m) y = Mul(c, x)"),
    "integers": ("int64[N,4] m", "l = Greater(m, k) w = Where(l, m, k) c = Cast<to=1>(w) y = Mul(c, x)"),
    "asked twice by one": ("float[N,4] m", "l = Less(x, m) n = Not(l) o = Or(n, l) y = Where(o, x, m)"),
    "another op": ("float[N,4] m", "l = IsNaN(m) y = Where(l, x, zero)"),
    "moved": (
        "float[N,4] m",
        "l = Less(x, m) u = Transpose<perm=[1,0]>(l) t = Transpose<perm=[1,0]>(u) y = Where(t, x, zero)",
    ),
}


def model_of(declared: str, nodes: str):
    constants = {"zero": ZERO, "one": ONE, "k": np.int64(0)}
    used = {name: array for name, array in constants.items() if f" {name})" in nodes or f" {name}," in nodes}
    # Weights read what is chosen.
    text = f"(float[N,4] x, {declared}) => (float[] z) {{ {nodes} z = MatMul(y, eye) }}"
    return build(text, eye=np.eye(4, dtype=np.float32), **used)


@pytest.mark.parametrize("name", MATCHES)
def test_the_same_function_of_numbers(name: str) -> None:
    declared, nodes, expected = MATCHES[name]
    model, rng = model_of(declared, nodes), np.random.default_rng(0)
    kind = declared.split("[")[0]
    numbers = rng.standard_normal((4,) if "[4]" in declared else (6, 4))
    m = {"bool": numbers > 0, "int64": np.round(numbers).astype(np.int64), "float": numbers.astype(np.float32)}[kind]
    given = {"x": rng.standard_normal((6, 4)).astype(np.float32), "m": m}
    before = run_as_written(model.clone(), **given)[0]
    assert ConditionsToNumbers()(model).modified
    RemoveDeadCode()(model)
    assert sorted(ops(model)) == sorted([*expected, "MatMul"])
    np.testing.assert_array_equal(run_as_written(model.clone(), **given)[0], before)
    assert not ConditionsToNumbers()(model).modified


def test_behind_the_last_weights_nothing_changes() -> None:
    model = build("(float[N,4] x, bool[N,4] m) => (float[] y) { y = Where(m, x, zero) }", zero=ZERO)
    assert not ConditionsToNumbers()(model).modified


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_what_stays(name: str) -> None:
    model = model_of(*NEAR_MISSES[name])
    before = ops(model)
    assert not ConditionsToNumbers()(model).modified
    assert ops(model) == before
