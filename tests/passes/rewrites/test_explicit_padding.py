import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from passes.normalize import normalize
from passes.rewrites.explicit_padding import ExplicitPadding
from qpipe.errors import ModelError
from support.networks import build, integers, parse
from support.run import run_as_written


def attributes(**values):
    return "<" + ", ".join(f"{name} = {value}" for name, value in values.items()) + ">"


@settings(max_examples=60, deadline=None)
@given(
    op=st.sampled_from(["Conv", "MaxPool", "AveragePool"]),
    auto_pad=st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]),
    size=st.tuples(st.integers(7, 12), st.integers(7, 12)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_pads_compute_what_auto_pad_does(op, auto_pad, size, kernel, strides):
    # onnxruntime 1.31 refuses to run such a MaxPool, by its own count of the pads.
    over_by = 0 if op == "MaxPool" else 1
    assume(all(s <= k + over_by for s, k in zip(strides, kernel, strict=True)))
    given_attributes = attributes(auto_pad=f'"{auto_pad}"', kernel_shape=list(kernel), strides=list(strides))
    weight = {"w": integers(4, 3, *kernel, seed=1)} if op == "Conv" else {}
    call = f"{op} {given_attributes} ({'x, w' if weight else 'x'})"
    model = build(f"(float[N,3,{size[0]},{size[1]}] x) => (float[N,C,H,W] y) {{ y = {call} }}", **weight)
    x = integers(2, 3, *size)
    expected = run_as_written(model, x=x)

    assert ExplicitPadding()(model).modified
    node = model.graph.node(0)
    assert "auto_pad" not in node.attributes
    assert len(node.attributes["pads"].as_ints()) == 4
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected[0])
    assert not ExplicitPadding()(model).modified


@settings(max_examples=30, deadline=None)
@given(size=st.integers(7, 20), kernel=st.integers(1, 4), stride=st.integers(1, 4), dilation=st.integers(2, 3))
def test_dilated_same_gives_the_specified_size(size, kernel, stride, dilation):
    """onnxruntime 1.31 doesn't run SAME with dilations, so the specification is the only oracle."""
    assume(stride <= (kernel - 1) * dilation + 2)
    given_attributes = attributes(auto_pad='"SAME_UPPER"', strides=[stride, stride], dilations=[dilation, dilation])
    model = build(
        f"(float[1,1,{size},{size}] x) => (float[1,1,H,W] y) {{ y = Conv {given_attributes} (x, w) }}",
        w=integers(1, 1, kernel, kernel),
    )
    assert ExplicitPadding()(model).modified
    top, left, bottom, right = model.graph.node(0).attributes["pads"].as_ints()
    assert (top, bottom) == (left, right)
    assert bottom - top in (0, 1)
    assert run_as_written(model, x=integers(1, 1, size, size))[0].shape[2:] == (-(-size // stride),) * 2


@pytest.mark.parametrize(("auto_pad", "pads"), [("SAME_UPPER", (0, 0, 1, 1)), ("SAME_LOWER", (1, 1, 0, 0))])
def test_odd_pixel_goes_to_the_named_end(auto_pad, pads):
    model = build(
        f'(float[N,1,8,8] x) => (float[N,1,4,4] y) {{ y = Conv <auto_pad = "{auto_pad}", strides = [2, 2]> (x, w) }}',
        w=np.ones((1, 1, 3, 3), np.float32),
    )
    assert ExplicitPadding()(model).modified
    assert tuple(model.graph.node(0).attributes["pads"].as_ints()) == pads


def test_stride_over_the_kernel_pads_nothing_and_drops_ceil_mode():
    model = build(
        "(float[1,1,6,6] x) => (float[1,1,H,W] y)"
        '{ y = AveragePool <auto_pad = "SAME_UPPER", kernel_shape = [1, 1], strides = [2, 2], ceil_mode = 1> (x) }'
    )
    # onnx's inference counts four here, against its own specification; onnxruntime gives three.
    model.graph.outputs[0].shape = ir.Shape([1, 1, "H", "W"])
    x = integers(1, 1, 6, 6)
    assert ExplicitPadding()(model).modified
    node = model.graph.node(0)
    assert tuple(node.attributes["pads"].as_ints()) == (0, 0, 0, 0)
    assert "ceil_mode" not in node.attributes
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], x[:, :, ::2, ::2])


def test_stride_over_kernel_and_one_is_left_to_the_runtime():
    model = build(
        '(float[1,1,6,6] x) => (float[1,1,H,W] y) { y = Conv <auto_pad = "SAME_UPPER", strides = [3, 3]> (x, w) }',
        w=integers(1, 1, 1, 1),
    )
    assert not ExplicitPadding()(model).modified


def test_valid_keeps_ceil_mode():
    model = build(
        "(float[1,1,6,6] x) => (float[1,1,H,W] y)"
        '{ y = MaxPool <auto_pad = "VALID", kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x) }'
    )
    x = integers(1, 1, 6, 6)
    expected = run_as_written(model, x=x)
    assert ExplicitPadding()(model).modified
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected[0])


def test_notset_only_loses_the_attribute():
    model = build(
        '(float[N,1,8,8] x) => (float[N,1,8,8] y) { y = Conv <auto_pad = "NOTSET", pads = [1, 1, 1, 1]> (x, w) }',
        w=np.ones((1, 1, 3, 3), np.float32),
    )
    assert ExplicitPadding()(model).modified
    assert tuple(model.graph.node(0).attributes["pads"].as_ints()) == (1, 1, 1, 1)


def test_explicit_pads_are_left_alone():
    model = build(
        "(float[N,1,8,8] x) => (float[N,1,8,8] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }",
        w=np.ones((1, 1, 3, 3), np.float32),
    )
    assert not ExplicitPadding()(model).modified


def test_same_needs_the_spatial_shape_and_valid_does_not():
    text = '(float[N,1,H,W] x) => (float[N,1,P,Q] y) {{ y = Conv <auto_pad = "{}"> (x, w) }}'
    weight = np.ones((1, 1, 3, 3), np.float32)
    same, valid = build(text.format("SAME_UPPER"), w=weight), build(text.format("VALID"), w=weight)
    assert not ExplicitPadding()(same).modified
    assert same.graph.node(0).attributes["auto_pad"].as_string() == "SAME_UPPER"
    assert ExplicitPadding()(valid).modified


@pytest.mark.parametrize(("axes", "pads"), [([2, 3], [1, 0, 2, 3]), ([-1], [2, 1]), ([3, 1], [1, 0, -1, 2])])
def test_a_pad_names_all_axes(axes, pads):
    text = "(float[N,3,5,6] x) => (float[N,C,H,W] y) { y = Pad(x, pads, , axes) }"
    model = build(text, pads=np.array(pads), axes=np.array(axes))
    x = integers(2, 3, 5, 6)
    expected = run_as_written(model, x=x)[0]
    assert ExplicitPadding()(model).modified
    assert len(model.graph.node(0).inputs) == 3
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected)
    assert not ExplicitPadding()(model).modified


@pytest.mark.parametrize("op", ["Conv", "MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    ("given_attributes", "message"),
    [
        ({"auto_pad": '"SAME_UPPER"', "pads": [0, 0, 1, 1]}, r"auto_pad is 'SAME_UPPER' and pads are \[0, 0, 1, 1\]"),
        ({"auto_pad": '"SAME"'}, "auto_pad is 'SAME', expected one of NOTSET, SAME_UPPER"),
    ],
)
def test_two_kinds_of_pads_and_unknown_ones_are_refused(op, given_attributes, message):
    call = f"{op} {attributes(kernel_shape=[2, 2], **given_attributes)} ({'x, w' if op == 'Conv' else 'x'})"
    proto = parse(f"(float[N,1,8,8] x) => (float[N,C,H,W] y) {{ [n] y = {call} }}", w=integers(1, 1, 2, 2))
    with pytest.raises(ModelError, match=f"{op} 'n': {message}"):
        normalize(ir.from_proto(proto))
