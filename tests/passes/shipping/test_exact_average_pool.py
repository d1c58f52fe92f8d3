"""Means over the whole image: which form each one takes, and that finalizing applies it."""

import numpy as np
import pytest

from passes.shipping.exact_average_pool import ExactAveragePool
from support.networks import build, integers, ops
from support.run import run_as_written


@pytest.mark.parametrize(("height", "width", "expected"), [
    (4, 4, "GlobalAveragePool"), (7, 7, "GlobalAveragePool"), (25, 5, "ReduceMean"), (7, 1, "ReduceMean"),
])  # fmt: skip
@pytest.mark.parametrize("pool", ["GlobalAveragePool", "AveragePool"])
def test_a_mean_over_everything(pool, height, width, expected):
    text = f"<kernel_shape=[{height}, {width}]>" if pool == "AveragePool" else ""
    model = build(f"(float[2,3,{height},{width}] x) => (float[2,3,1,1] y) {{ y = {pool}{text}(x) }}")
    x = integers(2, 3, height, width)
    before = run_as_written(model, x=x)[0]
    assert ExactAveragePool()(model).modified == (pool != expected)
    assert ops(model) == [expected]
    assert not ExactAveragePool()(model).modified
    np.testing.assert_allclose(run_as_written(model, x=x)[0], before, rtol=1e-6)  # one rounding of a float32 division


@pytest.mark.parametrize("text", ["kernel_shape=[2, 4]", "kernel_shape=[4, 4], pads=[1, 1, 1, 1]"])
def test_a_window_is_left_as_it_is(text):
    model = build(f"(float[2,3,4,4] x) => (float[a,b,c,d] y) {{ y = AveragePool<{text}>(x) }}")
    assert not ExactAveragePool()(model).modified


def test_an_unknown_size_divides():
    model = build("(float[2,3,h,w] x) => (float[2,3,1,1] y) { y = GlobalAveragePool(x) }")
    assert ExactAveragePool()(model).modified
    assert ops(model) == ["ReduceMean"]
