"""A transposed convolution as a convolution and a shuffle: beside onnxruntime's own, and by ONNX's text."""

import itertools

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from passes.normalize import normalize
from passes.rewrites.sub_pixel_convolution import SubPixelConvolution, plan_axis
from qpipe.ir.quantized.view import LastLayer, read_view
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from qpipe.train.write_back import write_back
from support.networks import Weights, build, checked, float_model, integers, ops
from support.quantize import finalized, finalized_on_grids, quantized, to_integer, to_qoperator
from support.run import assert_exact, run

AUTO = ["NOTSET", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]


def by_the_text(x, w, *, strides, dilations, pads, extra, groups):
    """`y[i s + k d - p] += x[i] w[k]`, on an image of `(n - 1) s + output_padding + (k - 1) d + 1 - pads`."""
    dims, kernel = len(strides), w.shape[2:]
    sizes = [
        (n - 1) * s + e + (k - 1) * d + 1 - pads[i] - pads[dims + i]
        for i, (n, s, e, k, d) in enumerate(zip(x.shape[2:], strides, extra, kernel, dilations, strict=True))
    ]
    outputs, fan_in = w.shape[1], x.shape[1] // groups
    y = np.zeros((len(x), outputs * groups, *sizes))
    for place in itertools.product(*map(range, x.shape[2:])):
        for tap in itertools.product(*map(range, kernel)):
            at = [
                i * s + k * d - pads[a]
                for a, (i, s, k, d) in enumerate(zip(place, strides, tap, dilations, strict=True))
            ]
            if all(0 <= p < size for p, size in zip(at, sizes, strict=True)):
                for g in range(groups):
                    rows = slice(g * fan_in, (g + 1) * fan_in)
                    y[:, g * outputs : (g + 1) * outputs, *at] += x[:, rows, *place] @ w[rows, :, *tap]
    return y


@settings(max_examples=80)
@given(st.data(), st.integers(1, 2), st.integers(1, 2))
def test_beside_onnxruntime_and_the_text(data, dims, groups):
    draw = data.draw
    kernel, strides, dilations = ([draw(st.integers(1, most)) for _ in range(dims)] for most in (4, 3, 2))
    if draw(st.booleans()):
        strides = strides[:1] * dims
    auto = draw(st.sampled_from(AUTO))
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = [draw(st.integers(0, e)) for e in extents * 2] if auto == "NOTSET" else [0] * 2 * dims
    extra = [draw(st.integers(0, s - 1)) for s in strides]
    sizes = [draw(st.integers(1, 5)) for _ in range(dims)]
    outputs, fan_in = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    x = np.random.default_rng(0).integers(-8, 9, (2, fan_in * groups, *sizes)).astype(np.float32)
    w, b = integers(fan_in * groups, outputs, *kernel, seed=1), integers(outputs * groups, seed=2)
    text = f"strides={strides}, dilations={dilations}, output_padding={extra}, group={groups}"
    if auto == "NOTSET":
        text += f", pads={pads}"
        results = [(n - 1) * s + e + t - pads[i] - pads[dims + i]
                   for i, (n, s, e, t) in enumerate(zip(sizes, strides, extra, extents, strict=True))]  # fmt: skip
        assume(min(results) > 0)
    else:
        # onnxruntime's total of SAME is 0 where that would be negative.
        assume(auto == "VALID" or all(e + t >= s for e, t, s in zip(extra, extents, strides, strict=True)))
        text += f', auto_pad="{auto}"'
    open_ = draw(st.booleans())
    shape = ",".join(str(n) for n in ["N", fan_in * groups, *(["H", "W"][:dims] if open_ else sizes)])
    model = build(f"(float[{shape}] x) => (float[] y) {{ [up] y = ConvTranspose<{text}>(x, w, b) }}", w=w, b=b)
    (expected,) = run(model, x)
    if auto in ("NOTSET", "VALID"):
        of_text = by_the_text(x, w, strides=strides, dilations=dilations, pads=pads, extra=extra, groups=groups)
        np.testing.assert_array_equal(of_text + b.reshape(-1, *[1] * dims), expected)
    result = SubPixelConvolution()(model)
    if not result.modified:
        assert open_
        assert len(set(strides)) > 1
        return
    checked(model)
    assert "ConvTranspose" not in ops(model)
    np.testing.assert_array_equal(run(model, x)[0], expected)
    assert not SubPixelConvolution()(model).modified


@pytest.mark.parametrize(
    ("wanted", "auto"),
    [
        ([9, 8], "NOTSET"),
        ([10, 9], "SAME_UPPER"),
        ([9, 9], "SAME_LOWER"),
        ([11, 9], "NOTSET"),
        ([8, 11], "SAME_UPPER"),
    ],
)
def test_output_shape(wanted, auto):
    """What is too much is padding, its odd pixel at the begin but for SAME_UPPER; what is missing, bias alone."""
    x, w, b = integers(1, 2, 4, 4), integers(2, 3, 4, 4, seed=1), integers(3, seed=2)
    text = f'strides=[2, 2], output_shape={wanted}, auto_pad="{auto}"'
    model = build(f"(float[1,2,4,4] x) => (float[] y) {{ y = ConvTranspose<{text}>(x, w, b) }}", w=w, b=b)
    (expected,) = run(model, x)
    assert SubPixelConvolution()(model).modified
    assert expected.shape[2:] == tuple(wanted)
    np.testing.assert_array_equal(run(model, x)[0], expected)


def test_no_more_products_than_needed():
    """Where the stride divides the kernel, the window has a tap for each; else those of whole blocks."""
    for kernel, stride, pads, extra, window, crop in [
        (2, 2, (0, 0), 0, 1, (0, 0)), (4, 2, (1, 1), 0, 2, (1, 1)), (3, 2, (1, 1), 1, 2, (0, 0)),
        (4, 4, (0, 0), 0, 1, (0, 0)), (16, 8, (4, 4), 0, 2, (4, 4)), (5, 2, (2, 2), 1, 3, (0, 0)),
    ]:  # fmt: skip
        axis = plan_axis(kernel, stride, 1, pads, extra)
        assert (axis.window, axis.crop) == (window, crop)
    assert plan_axis(3, 1, 2, (2, 2), 0).dilation == 2


def decoder(text: str, *, activation: str = "Relu({})", groups: int = 1, outputs: int = 6, seed: int = 0) -> ir.Model:
    w = Weights(seed)
    w.normal("w1", 4, 3, 3, 3)
    w.normal("w2", 4, outputs // groups, 4, 4)
    w.batch_norm("n", outputs)
    w.normal("w3", 5, outputs, 1, 1)
    nodes = [
        "c = Conv<pads=[1, 1, 1, 1]>(x, w1)", "r = Relu(c)", f"[up] u = ConvTranspose<{text}, group={groups}>(r, w2)",
        "m = BatchNormalization(u, n_g, n_b, n_m, n_v)", f"a = {activation.format('m')}", "y = Conv(a, w3)",
    ]  # fmt: skip
    return float_model("net", (3, 4, 5), nodes, **w.constants)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("text", ["strides=[2, 2], pads=[1, 1, 1, 1]", "strides=[2, 1], pads=[1, 1, 1, 1]"])
def test_batch_normalization_and_activation_stay_with_their_convolution(text, groups):
    model = decoder(text, groups=groups)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    (expected,) = run(model, x)
    normalize(model)
    checked(model)
    np.testing.assert_allclose(run(model, x)[0], expected, rtol=1e-4, atol=1e-5)  # float sums in another order
    found = ops(model)
    start = found.index("BatchNormalization")
    assert found[start - 1 : start + 2] == ["Conv", "BatchNormalization", "Relu"]
    assert next(node for node in model.graph if node.name == "up").op_type == "Conv"


@settings(max_examples=15)
@given(st.data())
def test_all_integers_of_all_files(data):
    draw = data.draw
    text = draw(
        st.sampled_from(["strides=[2, 2], pads=[1, 1, 1, 1]", "strides=[3, 3]", "strides=[1, 2], pads=[3, 1, 2, 0]"])
    )
    model = decoder(text, activation=draw(st.sampled_from(["Relu({})", "Identity({})", "Sigmoid({})"])),
                    groups=draw(st.integers(1, 2)), seed=draw(st.integers(0, 99)))  # fmt: skip
    spec = finalized_on_grids(model, lambda: draw(st.integers(-2, 2)), bits=draw(st.sampled_from([8, 4])))
    for lowered in (to_qoperator(spec), to_integer(spec)):
        run_gate(spec, lowered)


def test_it_trains():
    model = quantized(decoder("strides=[2, 2], pads=[1, 1, 1, 1]"))
    executor = Executor(model)
    x = np.random.default_rng(0).standard_normal((4, 3, 4, 5)).astype(np.float32)
    assert_exact(model, x, executor)
    executor.train()(torch.from_numpy(x))[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in executor.parameters() if p.requires_grad)
    write_back(executor.eval())
    assert_exact(model, x, executor)


def test_a_last_one_leaves_int32():
    """Shuffle and crop are the float tail's: nothing is rounded."""
    w = Weights()
    w.normal("w1", 4, 3, 3, 3)
    w.normal("w2", 4, 3, 4, 4)
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", "y = ConvTranspose<strides=[2, 2], pads=[1, 1, 1, 1]>(r, w2)"]
    model = quantized(float_model("net", (3, 6, 6), nodes, **w.constants))
    view = read_view(model)
    assert isinstance(view.layers[-1], LastLayer)
    assert [layer.op_type for layer in view.tail] == ["DepthToSpace", "Slice"]
    spec = finalized(model)
    for lowered in (to_qoperator(spec), to_integer(spec)):
        run_gate(spec, lowered)
