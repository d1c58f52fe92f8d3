import numpy as np
import pytest

from passes.rewrites.reduce_to_global_pool import ReduceToGlobalPool
from passes.rewrites.remove_dead_code import RemoveDeadCode
from support.networks import build, integers, ops
from support.run import run_as_written

# A mean of 64 values is summed in another order: at most 64 roundings of 2**-24 relative to the largest, here below 4.
ONE_MEAN = 64 * 2.0**-24 * 4


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3, -2]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_mean_over_space(axes, keepdims):
    shape = "N,5,1,1" if keepdims else "N,5"
    model = build(
        f"(float[N,5,8,8] x) => (float[{shape}] y) {{ m = ReduceMean <keepdims = {keepdims}> (x, axes) y = Relu(m) }}",
        axes=np.array(axes),
    )
    x = np.random.default_rng(0).standard_normal((3, 5, 8, 8)).astype(np.float32)
    expected = run_as_written(model, x=x)[0]
    assert ReduceToGlobalPool()(model).modified
    expected_ops = ["GlobalAveragePool", "Relu"] if keepdims else ["GlobalAveragePool", "Flatten", "Relu"]
    assert [node.op_type for node in model.graph] == expected_ops
    np.testing.assert_allclose(run_as_written(model, x=x)[0], expected, rtol=0, atol=ONE_MEAN)
    assert not ReduceToGlobalPool()(model).modified


def test_graph_output_keeps_its_name_and_batch():
    model = build(
        "(float[N,2,4,4] x) => (float[N,2] y) { y = ReduceMean <keepdims = 0> (x, axes) }", axes=np.array([2, 3])
    )
    ReduceToGlobalPool()(model)
    assert [value.name for value in model.graph.outputs] == ["y"]
    x = integers(5, 2, 4, 4)
    # Sixteen small whole numbers: the sum is exact, and so is the division by 16.
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], x.mean((2, 3)))


@pytest.mark.parametrize("axes", [[1, 2, 3], [2], [1], [0, 2, 3]])
def test_other_axes_stay(axes):
    model = build("(float[N,5,8,8] x) => (float[A,B,C,D] y) { y = ReduceMean (x, axes) }", axes=np.array(axes))
    assert not ReduceToGlobalPool()(model).modified


def test_all_axes_by_default_stay():
    assert not ReduceToGlobalPool()(
        build("(float[N,5,8,8] x) => (float[] y) { y = ReduceMean <keepdims = 0> (x) }")
    ).modified


def test_computed_axes_stay():
    model = build("(float[N,5,8,8] x, int64[2] axes) => (float[A,B,C,D] y) { y = ReduceMean (x, axes) }")
    assert not ReduceToGlobalPool()(model).modified


def test_one_spatial_dimension():
    model = build("(float[N,2,8] x) => (float[N,2,1] y) { y = ReduceMean (x, axes) }", axes=np.array([2]))
    assert ReduceToGlobalPool()(model).modified
    x = integers(2, 2, 8)
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], x.mean(2, keepdims=True))


def test_matrix_has_no_space():
    model = build("(float[N,8] x) => (float[N,1] y) { y = ReduceMean (x, axes) }", axes=np.array([1]))
    assert not ReduceToGlobalPool()(model).modified


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (
            "t = Transpose<perm = [0, 2, 3, 1]>(x) y = ReduceMean<keepdims = 0>(t, hw)",
            ["GlobalAveragePool", "Flatten"],
        ),
        (
            "t = Transpose<perm = [0, 2, 3, 1]>(x) y = ReduceMean<keepdims = 1>(t, hw)",
            ["GlobalAveragePool", "Transpose"],
        ),
        ("a = ReduceMean<keepdims = 1>(x, last) y = ReduceMean<keepdims = 1>(a, two)", ["GlobalAveragePool"]),
        (
            "a = ReduceMean<keepdims = 0>(x, last) y = ReduceMean<keepdims = 0>(a, two)",
            ["GlobalAveragePool", "Flatten"],
        ),
        ("a = ReduceMean<keepdims = 0>(x, two) y = ReduceMean<keepdims = 0>(a, two)", ["GlobalAveragePool", "Flatten"]),
        (
            "t = Transpose<perm = [0, 2, 3, 1]>(x) a = ReduceMean<keepdims = 0>(t, two) "
            "y = ReduceMean<keepdims = 0>(a, one)",
            ["GlobalAveragePool", "Flatten"],
        ),
        ("a = ReduceMean<keepdims = 1>(x, last) y = ReduceMean<keepdims = 0>(a, two)", ["ReduceMean", "ReduceMean"]),
        ("t = Transpose<perm = [3, 1, 2, 0]>(x) y = ReduceMean<keepdims = 0>(t, hw)", ["Transpose", "ReduceMean"]),
        ("t = Transpose<perm = [1, 2, 3, 0]>(x) y = ReduceMean<keepdims = 0>(t, hw)", ["Transpose", "ReduceMean"]),
    ],
)
def test_means_behind_a_transpose_and_of_means(nodes, expected):
    numbers = {"hw": [1, 2], "last": [-1], "two": [2], "one": [1]}
    used = {name: np.array(axes) for name, axes in numbers.items() if f", {name})" in nodes}
    model = build(f"(float[2,3,4,8] x) => (float[] y) {{ {nodes} }}", **used)
    x = integers(2, 3, 4, 8)
    before = run_as_written(model, x=x)[0]
    ReduceToGlobalPool()(model)
    RemoveDeadCode()(model)
    assert ops(model) == expected
    # 32 small integers and a power of two: exact in every order.
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], before)
    assert not ReduceToGlobalPool()(model).modified
