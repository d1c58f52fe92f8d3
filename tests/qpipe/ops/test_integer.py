"""The integer form of every op on random shapes, strides, widths and grids: the oracle's, and the QDQ file's too."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpipe.arith.certificate import reciprocal_is_exact
from qpipe.errors import LoweringError
from support.networks import Weights, float_model
from support.oracle import assert_integers
from support.quantize import finalized_on_grids, to_integer
from support.random_grids import ACTIVATIONS, check


@settings(max_examples=20)
@given(st.data())
def test_matrices(data):
    draw = data.draw
    size, hidden = draw(st.integers(1, 40)), draw(st.integers(1, 300))
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w1", size, hidden)
    w.constants["w1t"] = np.ascontiguousarray(w.constants["w1"].T)
    w.normal("b1", hidden)
    w.normal("w2", hidden, 7)
    matrix = draw(st.sampled_from(["Gemm<transB=1>(x, w1t, b1)", "Gemm(x, w1, b1)", "MatMul(x, w1)"]))
    nodes = [f"h = {matrix}", f"r = {draw(ACTIVATIONS).format('h')}", "y = MatMul(r, w2)"]
    check(draw, nodes, (size,), w, weights=draw(st.sampled_from(["int8", "uint8"])))


@settings(max_examples=20)
@given(st.data())
def test_add_of_grids_apart(data):
    draw = data.draw
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 4, 3, 1, 1)
    w.normal("w3", 5, 4, 1, 1)
    branch = draw(st.sampled_from(["Relu(b)", "Identity(b)"]))
    nodes = [
        "a = Conv(x, w1)",
        "b = Conv(x, w2)",
        f"rb = {branch}",
        "s = Add(a, rb)",
        f"r = {draw(ACTIVATIONS).format('s')}",
        "y = Conv(r, w3)",
    ]
    check(draw, nodes, (3, 5, 6), w)


@settings(max_examples=20)
@given(st.data())
def test_pools(data):
    draw = data.draw
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 5, 4, 1, 1)
    kind = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    kernel, strides = (draw(st.tuples(*[st.integers(1, 4)] * 2)) for _ in range(2))
    pads = [draw(st.integers(0, k // 2)) for k in kernel * 2]
    dilation = draw(st.integers(1, 2)) if kind == "MaxPool" else 1
    extra = f"dilations={[dilation, 1]}" if kind == "MaxPool" else f"count_include_pad={draw(st.integers(0, 1))}"
    # A dilated window may hang over by more than runtimes take, and is refused.
    ceil_mode = draw(st.integers(0, 1)) if dilation == 1 else 0
    text = f"kernel_shape={list(kernel)}, strides={list(strides)}, pads={pads}, ceil_mode={ceil_mode}, {extra}"
    nodes = ["c = Conv(x, w1)", f"r = {draw(ACTIVATIONS).format('c')}", f"p = {kind}<{text}>(r)"]
    nodes += [f"q = {draw(st.sampled_from(['Relu(p)', 'Identity(p)']))}", "y = Conv(q, w2)"]
    # onnxruntime's own average errs at ties of some counts (see `reciprocal_is_exact`).
    exact = all(
        reciprocal_is_exact(rows * columns) for rows in range(1, kernel[0] + 1) for columns in range(1, kernel[1] + 1)
    )
    check(draw, nodes, (3, draw(st.integers(8, 11)), draw(st.integers(8, 11))), w, fused=kind == "MaxPool" or exact)


@settings(max_examples=15)
@given(st.data())
def test_pools_of_rows(data):
    draw = data.draw
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w1", 4, 3, 3)
    w.normal("w2", 5, 4, 1)
    kind, kernel = draw(st.sampled_from(["MaxPool", "AveragePool", "GlobalAveragePool"])), draw(st.integers(1, 4))
    pads = [draw(st.integers(0, kernel // 2)) for _ in range(2)]
    ceil_mode = draw(st.integers(0, 1))
    text = f"<kernel_shape=[{kernel}], strides=[{draw(st.integers(1, 3))}], pads={pads}, ceil_mode={ceil_mode}>"
    text = "" if kind == "GlobalAveragePool" else text
    nodes = ["c = Conv(x, w1)", f"r = {draw(ACTIVATIONS).format('c')}", f"p = {kind}{text}(r)", "y = Conv(p, w2)"]
    # The mean of up to 4 is exact on onnxruntime, and that of all is written so that it is.
    check(draw, nodes, (3, draw(st.integers(8, 11))), w)


@settings(max_examples=15)
@given(st.data())
def test_global_mean(data):
    draw = data.draw
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 5, 4)
    nodes = [
        "c = Conv(x, w1)",
        f"r = {draw(ACTIVATIONS).format('c')}",
        "p = GlobalAveragePool(r)",
        "f = Flatten(p)",
        "y = Gemm<transB=1>(f, w2)",
    ]
    check(draw, nodes, (3, draw(st.integers(1, 9)), draw(st.integers(1, 9))), w)


@settings(max_examples=15)
@given(st.data())
def test_concat_requantizes_to_one_grid(data):
    draw = data.draw
    w = Weights(draw(st.integers(0, 1000)))
    for name in ("w1", "w2"):
        w.normal(name, 4, 3, 3, 3)
    axis = draw(st.sampled_from([1, 1, 2, 3, -1]))
    w.normal("w3", 5, 8 if axis == 1 else 4, 1, 1)
    nodes = [
        "a = Conv(x, w1)",
        f"ra = {draw(ACTIVATIONS).format('a')}",
        "b = Conv(x, w2)",
        f"rb = {draw(ACTIVATIONS).format('b')}",
        f"j = Concat<axis={axis}>(ra, rb)",
        "y = Conv(j, w3)",
    ]
    check(draw, nodes, (3, 6, 5), w)


@settings(max_examples=25)
@given(st.data())
def test_carriers(data):
    """Slice, Pad, Transpose and what only reshapes, between a convolution and a matrix."""
    draw = data.draw
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w1", 4, 3, 3, 3)
    axis, step = draw(st.sampled_from([1, 2, 3, -1, -2])), draw(st.sampled_from([1, 2, -1]))
    bounds = {1: (0, 100), 2: (1, -1), -1: (-1, -(2**40))}[step]
    w.constants |= {
        "starts": np.array([bounds[0]]), "ends": np.array([bounds[1]]), "axes": np.array([axis]),
        "steps": np.array([step]), "pads": np.array([0, *draw(st.tuples(*[st.integers(0, 1)] * 3)), 0, 1, 0, 2]),
        "folded": np.array([0, 1, -1]), "one": np.array([1]),
    }  # fmt: skip
    carriers = {
        "Slice": "Slice({}, starts, ends, axes, steps)",
        "Pad": "Pad({}, pads)",
        "Transpose": f"Transpose<perm=[0, {', '.join(map(str, draw(st.permutations([1, 2, 3]))))}]>({{}})",
        "Dropout": "Dropout({})",
        "MaxPool": "MaxPool<kernel_shape=[2, 2], pads=[0, 1, 1, 0]>({})",
    }
    nodes, name = ["c = Conv(x, w1)", f"r = {draw(ACTIVATIONS).format('c')}"], "r"
    for chosen in draw(st.permutations(sorted(carriers)))[: draw(st.integers(1, 4))]:
        nodes.append(f"t_{chosen} = {carriers[chosen].format(name)}")
        name = f"t_{chosen}"
    flat = draw(st.sampled_from(["f = Flatten({})", "g = Reshape({}, folded) f = Flatten(g)"]))
    nodes.append(flat.format(name))
    model = float_model("net", (3, 6, 7), nodes_to_output(nodes), **used(w, nodes))
    size = int(model.graph.outputs[0].shape[1])
    w.normal("w2", size, 3)
    check(draw, [*nodes, "y = MatMul(f, w2)"], (3, 6, 7), w)


def nodes_to_output(nodes: list[str]) -> list[str]:
    """The same graph with `f` as its output, which shape inference then measures."""
    return [*nodes, "y = Identity(f)"]


def used(w: Weights, nodes: list[str]) -> dict[str, np.ndarray]:
    constants = w.constants | {"low": np.float32(0), "six": np.float32(0.7)}
    return {name: array for name, array in constants.items() if any(name in node for node in nodes)}


def test_squeeze_and_unsqueeze():
    w = Weights()
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 4, 3)
    w.constants |= {"ax": np.array([2, 3]), "two": np.array([2])}
    nodes = [
        "c = Conv(x, w1)",
        "r = Relu(c)",
        "p = GlobalAveragePool(r)",
        "q = Squeeze(p, ax)",
        "u = Unsqueeze(q, two)",
        "f = Flatten(u)",
        "y = MatMul(f, w2)",
    ]
    spec = finalized_on_grids(float_model("net", (3, 5, 5), nodes, **w.constants), lambda: 1)
    assert_integers(spec, np.random.default_rng(0).standard_normal((2, 3, 5, 5)).astype(np.float32))


@settings(max_examples=10)
@given(st.data())
def test_batch_normalization_alone_and_two_activations(data):
    draw = data.draw
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w1", 4, 3, 3, 3)
    w.batch_norm("n", 4)
    w.normal("w2", 5, 4, 1, 1)
    nodes = [
        "c = Conv(x, w1)",
        "m = MaxPool<kernel_shape=[2, 2]>(c)",
        "k = Relu(m)",
        "n = BatchNormalization(k, n_g, n_b, n_m, n_v)",
        f"r = {draw(ACTIVATIONS).format('n')}",
        "y = Conv(r, w2)",
    ]
    check(draw, nodes, (3, 7, 7), w)


def test_unoptimized_as_it_is_written():
    """No constant folded, nothing fused: the file means the same."""
    w = Weights()
    w.normal("w1", 40, 1, 3, 3)
    w.normal("w2", 5, 40, 1, 1)
    nodes = [
        "c = Conv<group=40, pads=[1,1,1,1]>(x, w1)",
        "r = Relu(c)",
        "p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(r)",
    ]
    spec = finalized_on_grids(float_model("net", (40, 6, 6), [*nodes, "y = Conv(p, w2)"], **w.constants), lambda: 1)
    assert_integers(spec, np.random.default_rng(0).standard_normal((2, 40, 6, 6)).astype(np.float32), optimize=False)


def test_images_of_any_size():
    """Height and width unknown: windows count from the far side."""
    w = Weights()
    w.normal("w1", 4, 3, 3, 3)
    w.normal("w2", 5, 4, 1, 1)
    nodes = ["c = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w1)", "r = Relu(c)", "y = Conv(r, w2)"]
    model = float_model("net", (3, 9, 8), nodes, **w.constants)
    for node in model.graph:
        for value in node.outputs:
            value.shape = ir.Shape(["N", value.shape[1], "H", "W"])
    model.graph.inputs[0].shape = ir.Shape(["N", 3, "H", "W"])
    spec = finalized_on_grids(model, lambda: 1)
    for size in ((9, 8), (12, 7)):
        assert_integers(spec, np.random.default_rng(0).standard_normal((2, 3, *size)).astype(np.float32))


@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
def test_a_window_in_the_padding_alone_is_none(pool):
    """onnx's inference counts five."""
    w = Weights()
    w.normal("w1", 4, 3, 1, 1)
    text = "kernel_shape=[2,2], strides=[2,2], pads=[0,0,0,1], ceil_mode=1"
    nodes = [f"p = {pool}<{text}>(x)", "y = Conv(p, w1)"]
    spec = finalized_on_grids(float_model("net", (3, 8, 8), nodes, **w.constants), lambda: 1)
    found = assert_integers(spec, np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32))
    assert found["y"].shape == (2, 4, 4, 4)


def test_a_mean_over_an_unknown_size_is_refused():
    w = Weights()
    w.normal("w1", 4, 3, 3, 3)
    w.normal("w2", 5, 4, 1, 1)
    model = float_model(
        "net", (3, 9, 8), ["c = Conv(x, w1)", "p = GlobalAveragePool(c)", "y = Conv(p, w2)"], **w.constants
    )
    for node in model.graph:
        node.outputs[0].shape = ir.Shape(["N", node.outputs[0].shape[1], "H", "W"])
    model.graph.inputs[0].shape = ir.Shape(["N", 3, "H", "W"])
    spec = finalized_on_grids(model, lambda: 1)
    with pytest.raises(LoweringError, match=r"the image's size is unknown"):
        to_integer(spec)
