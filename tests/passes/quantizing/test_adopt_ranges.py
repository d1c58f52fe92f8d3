"""Files as other tools write them, in ONNX's text: what their quantizers say, and the float network behind them."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.quantizing.adopt_ranges import AdoptRanges, adopted_ranges
from passes.quantizing.calibrate_percentile import RANGE_KEY, take_range
from passes.quantizing.separate_quantizers import SeparateQuantizers
from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from qpipe.ir.graph.layers import STAYS_FLOAT
from qpipe.runtime.session import open_session, run_feeds
from support.networks import ops, parse

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (2, 3, 4, 4)).astype(np.float32)
WEIGHT = RNG.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
SCALES = np.array([0.01, 0.02, 0.005, 0.0125], np.float32)
GRIDS: dict[str, Any] = {
    "sx": np.float32(2**-7), "zx": np.uint8(128), "sw": SCALES, "zw": np.zeros(4, np.int8),
    "sy": np.float32(0.03), "zy": np.uint8(0), "w": WEIGHT,
}  # fmt: skip
CONV = (
    "qx = QuantizeLinear(x, sx, zx)",
    "rx = DequantizeLinear(qx, sx, zx)",
    "rw = DequantizeLinear<axis=0>(w, sw, zw)",
    "[conv] c = Conv<pads=[1,1,1,1]>(rx, rw)",
)
AS_FLOAT = 1e-6
"""Relative: one product by a scale, in float64 rounded to float32 here, in float32 there."""


def built(*nodes: str, shape: str = "float[2,3,4,4] x", result: str = "float[2,4,4,4] y", **constants: Any) -> ir.Model:
    return load_model(parse(f"({shape}) => ({result}) {{ {' '.join(nodes)} }}", **{**GRIDS, **constants}))


def adopted(model: ir.Model) -> ir.Model:
    for pass_ in (SeparateQuantizers(), AdoptRanges()):
        pass_(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


def range_of(model: ir.Model, name: str) -> tuple[float, bool]:
    graph = model.graph
    values = {str(v.name): v for v in [*graph.inputs, *(v for node in graph for v in node.outputs)]}
    found = take_range(values[name])
    return found.ymax, found.is_negative


def test_ranges_are_those_of_the_codes() -> None:
    model = adopted(built(*CONV, "q = QuantizeLinear(c, sy, zy)", "y = DequantizeLinear(q, sy, zy)"))
    assert adopted_ranges(model.graph) == 2
    assert range_of(model, "x") == (1.0, True)
    ymax, is_negative = range_of(model, "y")
    assert not is_negative
    assert ymax == pytest.approx(255 * 0.03, rel=AS_FLOAT)


def test_weights_are_the_numbers_that_their_codes_stand_for() -> None:
    model = adopted(built(*CONV, "q = QuantizeLinear(c, sy, zy)", "y = DequantizeLinear(q, sy, zy)"))
    conv = next(node for node in model.graph if node.op_type == "Conv")
    assert conv.inputs[1] is not None
    assert conv.inputs[1].const_value is not None
    expected = WEIGHT * SCALES.astype(np.float64)[:, None, None, None]
    np.testing.assert_allclose(conv.inputs[1].const_value.numpy(), expected, rtol=AS_FLOAT)


@pytest.mark.parametrize(
    ("zero", "scale", "behind"),
    [
        (np.uint8(0), 0.03, "Relu"),
        (np.uint8(0), 6 / 255, "Clip"),
        (np.int8(-128), 0.03, "Relu"),
        (np.uint8(7), 0.03, None),
        (np.int8(0), 0.03, None),
    ],
)
def test_what_a_quantizer_cuts_off_is_an_activation_again(zero: Any, scale: float, behind: str | None) -> None:
    nodes = (*CONV, "q = QuantizeLinear(c, sy, zy)", "y = DequantizeLinear(q, sy, zy)")
    model = adopted(built(*nodes, sy=np.float32(scale), zy=zero))
    assert ops(model) == ["Conv", *([behind] if behind else [])]


def test_nothing_is_put_behind_what_is_never_negative() -> None:
    nodes = (*CONV, "r = Relu(c)", "q = QuantizeLinear(r, sy, zy)", "d = DequantizeLinear(q, sy, zy)", "y = Sigmoid(d)")
    assert ops(adopted(built(*nodes))) == ["Conv", "Relu", "Sigmoid"]


def test_integers_that_are_only_moved_are_real_numbers() -> None:
    nodes = (
        *CONV, "q = QuantizeLinear(c, sy, zy)", "m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(q)",
        "p = Pad(m, pads, five)", "y = DequantizeLinear(p, sy, zy)",
    )  # fmt: skip
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    before = built(*nodes, pads=pads, five=np.uint8(5))
    # As it is written: fused to integer kernels, its pairs of products saturate on CPUs without VNNI.
    expected = run_feeds(open_session(before, optimize=False), {"x": X})[0]
    found = run_feeds(open_session(adopted(before)), {"x": X})[0]
    assert ops(before) == ["Conv", "Relu", "MaxPool", "Pad"]
    # The border is exact; of all else each number is within its quantizer's half step and the input's.
    np.testing.assert_allclose(found[:, :, 0], 5 * np.float32(0.03), rtol=AS_FLOAT)
    saturates = expected >= 255 * np.float32(0.03) * (1 - AS_FLOAT)
    distance = np.abs(np.minimum(found, 255 * 0.03) - expected)
    assert (distance[~saturates] <= 0.03 / 2 + _of_input(SCALES)).all()


def _of_input(scales: Any) -> float:
    """What half a step of the input can make of the largest channel's sum."""
    return float(2**-8 * np.abs(WEIGHT * scales[:, None, None, None]).sum(axis=(1, 2, 3)).max())


def test_inputs_and_outputs_of_integers_are_real_numbers() -> None:
    nodes = ("rx = DequantizeLinear(x, sx, zx)", *CONV[2:], "y = QuantizeLinear(c, sy, zy)")
    model = adopted(built(*nodes, shape="uint8[2,3,4,4] x", result="uint8[2,4,4,4] y"))
    assert [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)] == [ir.DataType.FLOAT] * 2
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert range_of(model, "x") == (1.0, True)


def test_a_weight_in_front_of_a_quantizer_is_the_one_that_was_trained() -> None:
    trained = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = (
        *CONV[:2], "qw = QuantizeLinear<axis=0>(t, sw, zw)", "rw = DequantizeLinear<axis=0>(qw, sw, zw)", CONV[3],
        "y = Relu(c)",
    )  # fmt: skip
    model = adopted(built(*nodes, t=trained))
    conv = next(node for node in model.graph if node.op_type == "Conv")
    assert conv.inputs[1] is not None
    assert conv.inputs[1].const_value is not None
    assert np.array_equal(conv.inputs[1].const_value.numpy(), trained)


def test_what_was_left_in_float_is_marked() -> None:
    second = RNG.standard_normal((2, 4, 1, 1)).astype(np.float32)
    model = adopted(built(*CONV, "[free] y = Conv(c, v)", v=second, result="float[2,2,4,4] y"))
    assert [str(node.name) for node in model.graph if STAYS_FLOAT in node.metadata_props] == ["free"]


def test_blocks_of_a_weight_have_scales_of_their_own() -> None:
    codes = RNG.integers(-8, 8, (4, 6)).astype(np.int8)
    scales = RNG.uniform(0.5, 1, (4, 2)).astype(np.float32)
    nodes = ("rb = DequantizeLinear<axis=1, block_size=3>(b, sb, zb)", "y = MatMul(x, rb)")
    shapes = {"shape": "float[2,4] x", "result": "float[2,6] y"}
    model = adopted(built(*nodes, **shapes, b=codes, sb=scales, zb=np.zeros((4, 2), np.int8)))
    value = next(iter(model.graph)).inputs[1]
    assert value is not None
    assert value.const_value is not None
    np.testing.assert_allclose(value.const_value.numpy(), codes * np.repeat(scales, 3, 1), rtol=AS_FLOAT)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        (("q = QuantizeLinear(x, s, zx)", "y = DequantizeLinear(q, s, zx)"), "its scale|the scale of an activation"),
        (
            ("q = QuantizeLinear(x, sx, zx)", "a = Clip(q, zx)", "y = DequantizeLinear(a, sx, zx)"),
            "Clip .*: a bound of the codes is computed or missing",
        ),
    ],
)
def test_what_can_not_be_read_is_named(nodes: tuple[str, ...], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        adopted(built("s = ReduceMax<keepdims=0>(x)", *nodes, result="float[2,3,4,4] y"))


def test_the_operator_form_says_the_same() -> None:
    bias = np.array([100, -50, 3, 0], np.int32)
    nodes = ("qx = QuantizeLinear(x, sx, zx)", "q = QLinearConv<pads=[1,1,1,1]>(qx, sx, zx, w, sw, zw, sy, zy, b)",
             "y = DequantizeLinear(q, sy, zy)")  # fmt: skip
    model = adopted(built(*nodes, b=bias))
    assert ops(model) == ["Conv", "Relu"]
    assert {name for name in ("x", "y") if RANGE_KEY in _value(model, name).metadata_props} == {"x", "y"}
    found = next(iter(model.graph)).inputs[2]
    assert found is not None
    assert found.const_value is not None
    np.testing.assert_allclose(found.const_value.numpy(), bias * SCALES * 2**-7, rtol=AS_FLOAT)


def _value(model: ir.Model, name: str) -> ir.Value:
    return next(v for v in [*model.graph.inputs, *(v for n in model.graph for v in n.outputs)] if v.name == name)


def test_of_a_grid_for_each_channel_the_outermost_ends_are_the_range() -> None:
    scales, zeros = np.array([0.01, 0.04, 0.02], np.float32), np.array([0, 64, 128], np.uint8)
    nodes = ("q = QuantizeLinear<axis=1>(x, s, z)", "rx = DequantizeLinear<axis=1>(q, s, z)", *CONV[2:], "y = Relu(c)")
    model = adopted(built(*nodes, s=scales, z=zeros))
    ymax, is_negative = range_of(model, "x")
    assert is_negative
    assert ymax == pytest.approx((255 - 64) * 0.04, rel=AS_FLOAT)


def test_a_clip_of_codes_narrows_the_range() -> None:
    """As Brevitas writes 4 bits, of activations and of weights."""
    trained = RNG.uniform(-0.05, 0.05, (4, 3, 3, 3)).astype(np.float32)
    nodes = (
        *CONV[:2], "qw = QuantizeLinear<axis=0>(t, sw, zw)", "kw = Clip(qw, least, most)",
        "rw = DequantizeLinear<axis=0>(kw, sw, zw)", CONV[3], "r = Relu(c)", "q = QuantizeLinear(r, sy, zy)",
        "k = Clip(q, zy, top)", "y = DequantizeLinear(k, sy, zy)",
    )  # fmt: skip
    ends = {"least": np.int8(-7), "most": np.int8(7), "top": np.uint8(15)}
    model = adopted(built(*nodes, t=trained, **ends))
    assert ops(model) == ["Conv", "Relu"]
    assert range_of(model, "y") == (pytest.approx(15 * 0.03, rel=AS_FLOAT), False)
