import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from passes.normalize import normalize
from passes.rewrites.explicit_pools import ExplicitPools
from qpipe.nodes import static_shape
from support.networks import build, integers, load, ops, parse
from support.run import run_as_written


def pool(text: str, *sizes: int, op: str = "AveragePool") -> ir.Model:
    image = ",".join(map(str, sizes))
    free = ",".join("HWD"[: len(sizes)])
    return build(f"(float[N,2,{image}] x) => (float[N,C,{free}] y) {{ [p] y = {op}<{text}>(x) }}")


@settings(max_examples=40)
@given(st.data(), st.sampled_from(["AveragePool", "AveragePool", "MaxPool"]), st.integers(1, 2))
def test_every_pool_computes_what_it_did_and_has_the_size_that_it_says(data, op, dims):
    draw = data.draw
    kernel, strides = ([draw(st.integers(1, 4)) for _ in range(dims)] for _ in range(2))
    pads = [draw(st.integers(0, k - 1)) for k in kernel * 2] if draw(st.booleans()) else [0] * 2 * dims
    sizes = [draw(st.integers(4, 9)) for _ in range(dims)]
    assume(all(k <= size for k, size in zip(kernel, sizes, strict=True)))
    include = f", count_include_pad={draw(st.integers(0, 1))}" if op == "AveragePool" else ""
    dilations = ", dilations=[" + ", ".join("1" * dims) + "]" if draw(st.booleans()) else ""
    text = f"kernel_shape={kernel}, strides={strides}, pads={pads}, ceil_mode={draw(st.integers(0, 1))}"
    model = pool(text + include + dilations, *sizes, op=op)
    # The file is right where its sizes are not.
    model.graph.outputs[0].shape = ir.Shape([None] * (2 + dims))
    x = integers(2, 2, *sizes)
    (expected,) = run_as_written(model, x=x)
    ExplicitPools()(model)
    assert "ceil_mode" not in model.graph.node(-1).attributes or not model.graph.node(-1).attributes["ceil_mode"].value
    assert static_shape(model.graph.outputs[0])[2:] in {expected.shape[2:], (None,) * dims}
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected)
    assert not ExplicitPools()(model).modified


def test_without_pads_there_is_nothing_to_count():
    model = pool("kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, count_include_pad=1", 5, 4)
    assert ExplicitPools()(model).modified
    assert set(model.graph.node(0).attributes) == {"kernel_shape", "strides", "pads"}
    assert tuple(model.graph.node(0).attributes["pads"].as_ints()) == (0, 0, 1, 0)


def test_pads_that_count_stand_before_a_pool_that_hangs_over_them():
    """torch's AvgPool2d(3, 2, 1, ceil_mode=True): of the last window 2 rows count, and one does not."""
    model = pool("kernel_shape=[3], strides=[2], pads=[1, 1], ceil_mode=1, count_include_pad=1", 4)
    assert ExplicitPools()(model).modified
    assert ops(model) == ["Pad", "AveragePool"]
    (y,) = run_as_written(model, x=np.float32([[[1, 2, 4, 8]] * 2]))
    np.testing.assert_array_equal(y[0, 0], np.float32([1, 14 / 3, 4]))


def test_what_is_known_only_when_it_runs_stays():
    model = build(
        "(float[N,2,H] x) => (float[N,2,W] y)"
        "{ y = AveragePool<kernel_shape=[3], strides=[2], pads=[1, 1], ceil_mode=1, count_include_pad=1>(x) }"
    )
    assert not ExplicitPools()(model).modified


def test_a_dilated_window_whose_pads_no_runtime_takes_stays():
    model = pool("kernel_shape=[2], strides=[4], dilations=[4], ceil_mode=1", 6, op="MaxPool")
    assert not ExplicitPools()(model).modified


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "VALID"])
def test_sizes_that_hang_on_a_pool_are_inferred_again(auto_pad):
    """onnx infers 3 here and onnxruntime gives 2; the graph has the size of what follows, too."""
    attributes = f'auto_pad="{auto_pad}", kernel_shape=[1], strides=[2], ceil_mode=1'
    text = f"(float[N,2,4] x) => (float[N,C,W] y) {{ p = MaxPool<{attributes}>(x) y = Relu(p) }}"
    model = load(parse(text))
    assert [static_shape(node.outputs[0])[1:] for node in model.graph] == [(2, 2), (2, 2)]


def test_a_shape_that_the_graph_computes_is_the_true_one():
    """Folding Shape into a constant must not come before."""
    attributes = "kernel_shape=[1], strides=[3], ceil_mode=1"
    model = build(
        f"(float[2,2,3] x) => (float[A,B] y) {{ p = MaxPool<{attributes}>(x) s = Shape(p) "
        "n = Gather<axis=0>(s, one) r = Concat<axis=0>(n, rest) y = Reshape(p, r) }",
        one=np.array([2]), rest=np.array([-1]),
    )  # fmt: skip
    normalize(model)
    assert run_as_written(model, x=integers(2, 2, 3))[0].shape == (1, 4)
