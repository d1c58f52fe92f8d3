import numpy as np
import pytest

from passes.normalize import normalize
from passes.rewrites.drop_nan_guards import DropNanGuards
from support.networks import build, ops
from support.rewriting import assert_stays
from support.run import run_as_written

TEXT = "(float[N,5] x) => (float[] y) {{ p = Softmax<axis=-1>(x) n = IsNaN(p) {nodes} y = MatMul(w, v) }}"
V = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
GUARD = "w = Where(n, zero, p)"


def test_the_guard_of_a_softmax_goes() -> None:
    model = build(TEXT.format(nodes=GUARD), v=V, zero=np.float32(0))
    x = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32) * 1e4
    (expected,) = run_as_written(model, x=x)
    assert DropNanGuards()(model).modified
    assert ops(model) == ["Softmax", "MatMul"]
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected)
    assert_stays(DropNanGuards(), model)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ("w = Where(n, p, zero)", {"zero": np.float32(0)}),
        ("q = Relu(p) w = Where(n, zero, q)", {"zero": np.float32(0)}),
        ("a = Neg(p) m = IsNaN(a) w = Where(m, zero, p)", {"zero": np.float32(0)}),
        (GUARD, {"zero": np.float32(-np.inf)}),
    ],
    ids=["NaN alone", "another value", "of another value", "an infinite number"],
)
def test_what_stays(nodes: str, constants: dict[str, np.ndarray]) -> None:
    assert_stays(DropNanGuards(), build(TEXT.format(nodes=nodes), v=V, **constants))


def test_masks_of_minus_infinity_leave_no_guard() -> None:
    text = "(float[N,5] x, bool[N,5] m) => (float[] y) { z = Where(m, zero, low) s = Add(x, z) p = Softmax<axis=-1>(s) "
    model = build(
        text + "n = IsNaN(p) w = Where(n, zero, p) y = MatMul(w, v) }",
        v=V, zero=np.float32(0), low=np.float32(-np.inf),
    )  # fmt: skip
    normalize(model)
    assert "IsNaN" not in ops(model)
