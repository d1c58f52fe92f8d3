import numpy as np
import pytest

from passes.rewrites.masks_to_sums import MasksToSums
from support.networks import build, ops
from support.rewriting import assert_stays
from support.run import run_as_written

RNG = np.random.default_rng(0)
TEXT = "(float[N,2,5,5] x, bool[{mask}] m) => (float[] y) {{ {nodes} y = Softmax<axis=-1>(w) }}"


@pytest.mark.parametrize("low", [-1e4, -(2.0**15), -3e38, -np.inf])
@pytest.mark.parametrize("mask", ["N,1,1,5", "N,1,5,5", "5,5", "5"])
@pytest.mark.parametrize(
    "nodes", ["w = Where(m, x, low)", "n = Not(m) w = Where(n, low, x)", "v = Where(m, x, low) w = Identity(v)"]
)
def test_a_softmax_sees_the_same(nodes: str, mask: str, low: float) -> None:
    model = build(TEXT.format(mask=mask, nodes=nodes), low=np.float32(low))
    x = RNG.standard_normal((3, 2, 5, 5)).astype(np.float32) * 100
    m = RNG.random([3 if size == "N" else int(size) for size in mask.split(",")]) < 0.7
    # A row of which nothing is left means nothing.
    m[..., 0] = True
    (expected,) = run_as_written(model, x=x, m=m)
    assert MasksToSums()(model).modified
    assert "Add" in ops(model)
    np.testing.assert_array_equal(run_as_written(model, x=x, m=m)[0], expected)
    assert_stays(MasksToSums(), model)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ("w = Where(m, x, low)", {"low": np.float32(-8000)}),
        ("w = Where(m, low, high)", {"low": np.float32(-1e4), "high": np.float32(0)}),
        ("v = Where(m, x, low) e = Exp(v) w = Add(e, v)", {"low": np.float32(-1e4)}),
        ("w = Where(m, x, lows)", {"lows": np.float32([-1e4, -1e4, -1e4, -1e4, 0])}),
        ("z = Neg(x) w = Where(m, x, z)", {}),
    ],
    ids=["not far enough", "a mask already", "not only a Softmax", "several numbers", "two activations"],
)
def test_what_stays(nodes: str, constants: dict[str, np.ndarray]) -> None:
    assert_stays(MasksToSums(), build(TEXT.format(mask="N,1,1,5", nodes=nodes), **constants))
