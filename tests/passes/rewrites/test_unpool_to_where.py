"""A MaxUnpool behind a MaxPool of windows side by side is a Where, ties and all."""

import numpy as np
import pytest

from passes.rewrites.unpool_to_where import UnpoolToWhere
from qpipe.ir.quantized.view import read_view
from qpipe.runtime.gate import run_gate
from support.networks import Weights, build, float_model, integers, ops
from support.oracle import assert_integers
from support.quantize import finalized_on_grids, to_qoperator
from support.run import run_as_written

POOL = "p, i = MaxPool<kernel_shape=[{k},{k}], strides=[{k},{k}]>(x) "
UNPOOL = "y = MaxUnpool<kernel_shape=[{k},{k}], strides=[{k},{k}]>(q, i{size})"


@pytest.mark.parametrize("size", ["", ", size"])
@pytest.mark.parametrize("k", [2, 3])
def test_the_same_numbers_at_the_same_places(k: int, size: str) -> None:
    text = (POOL + "q = Neg(p) " + UNPOOL).format(k=k, size=size)
    sizes = {"size": np.array([4, 3, 6, 12])} if size else {}
    model = build(f"(float[4,3,6,12] x) => (float[4,3,6,12] y) {{ {text} }}", **sizes)
    # Small integers: most windows have ties.
    x = integers(4, 3, 6, 12) // 4
    (before,) = run_as_written(model.clone(), x=x)
    assert UnpoolToWhere()(model).modified
    assert not {"MaxUnpool"} & set(ops(model))
    (pool,) = (node for node in model.graph if node.op_type == "MaxPool")
    assert len(pool.outputs) == 1
    np.testing.assert_array_equal(run_as_written(model.clone(), x=x)[0], before)
    assert not UnpoolToWhere()(model).modified


NEAR_MISSES = {
    "overlapping": "p, i = MaxPool<kernel_shape=[2,2]>(x) y = MaxUnpool<kernel_shape=[2,2]>(p, i)",
    "padded": (
        "p, i = MaxPool<kernel_shape=[2,2], strides=[2,2], pads=[1,1,1,1]>(x) "
        "y = MaxUnpool<kernel_shape=[2,2], strides=[2,2], pads=[1,1,1,1]>(p, i)"
    ),
    "a remainder": POOL.format(k=3) + "y = MaxUnpool<kernel_shape=[3,3], strides=[3,3]>(p, i)",
    "other indices": POOL.format(k=2) + "j = Identity(i) y = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(p, j)",
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_what_stays(name: str) -> None:
    model = build(f"(float[1,3,8,8] x) => (float[] y) {{ {NEAR_MISSES[name]} }}")
    assert not UnpoolToWhere()(model).modified
    assert "MaxUnpool" in ops(model)


def test_a_segmenter_has_integers_in_all_exports() -> None:
    """SegNet's way: what is computed of the pooled numbers goes back to where they were."""
    w = Weights()
    for name, shape in {"w1": (4, 3, 3, 3), "w2": (4, 4, 1, 1), "w3": (5, 4, 1, 1)}.items():
        w.normal(name, *shape)
    pool = "p, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)"
    nodes = [
        "c = Conv<pads=[1,1,1,1]>(x, w1)", "a = Relu(c)", pool, "d = Conv(p, w2)", "e = Relu(d)",
        "u = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(e, i)", "y = Conv(u, w3)",
    ]  # fmt: skip
    spec = finalized_on_grids(float_model("net", (3, 4, 6), nodes, **w.constants), lambda: 0)
    view = read_view(spec)
    assert (view.islands, view.tail) == ([], [])
    assert [layer.op_type for layer in view.layers].count("Where") == 5
    assert_integers(spec, np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32))
    run_gate(spec, to_qoperator(spec))
