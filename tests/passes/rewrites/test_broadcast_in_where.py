"""What is only repeated for a Where is repeated by it, where another operand has the result's shape."""

import numpy as np
import pytest

from passes.rewrites.broadcast_in_where import BroadcastInWhere
from passes.rewrites.remove_dead_code import RemoveDeadCode
from support.networks import build, ops
from support.run import run_as_written

MATCHES = {
    "zeros": "s = Shape(x) f = ConstantOfShape(s) y = Where(m, x, f)",
    "another number, first": "s = Shape(x) f = ConstantOfShape<value=float[1] {0.5}>(s) y = Where(m, f, x)",
    "a list that is expanded": "s = Shape(x) f = Expand(list, s) y = Where(m, x, f)",
    "a mask that is expanded": "s = Shape(x) f = Expand(m, s) y = Where(f, list, x)",
}
NEAR_MISSES = {
    "what gives the shape": "s = Shape(x) f = ConstantOfShape(s) y = Where(m, list, f)",
    "of more axes": "s = Shape(w) f = ConstantOfShape(s) y = Where(m, x, f)",
    "both": "s = Shape(x) f = Expand(m, s) g = Expand(list, s) y = Where(f, g, list)",
}


def model_of(nodes: str):
    used = {"list": np.float32([1, 2, 3, 4])} if "list" in nodes else {}
    return build(f"(float[N,4] x, bool[N,1] m, float[2,N,4] w) => (float[] y) {{ {nodes} }}", **used)


def values(model) -> np.ndarray:
    rng = np.random.default_rng(0)
    given = {"x": rng.standard_normal((3, 4)).astype(np.float32), "m": rng.random((3, 1)) < 0.5}
    return run_as_written(model.clone(), **given, w=np.zeros((2, 3, 4), np.float32))[0]


@pytest.mark.parametrize("name", MATCHES)
def test_the_same_numbers(name: str) -> None:
    model = model_of(MATCHES[name])
    before = values(model)
    assert BroadcastInWhere()(model).modified
    RemoveDeadCode()(model)
    assert ops(model) == ["Where"]
    np.testing.assert_array_equal(values(model), before)
    assert not BroadcastInWhere()(model).modified


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_the_shape_stays(name: str) -> None:
    """Whatever of it goes."""
    model = model_of(NEAR_MISSES[name])
    before = values(model)
    BroadcastInWhere()(model)
    np.testing.assert_array_equal(values(model), before)
    assert {"Expand", "ConstantOfShape"} & set(ops(model))
