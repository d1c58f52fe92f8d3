"""Weights and activations of any width, through every export: what is stored, what runs, and every integer."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qpipe
from qpipe.data import Preprocess
from qpipe.data.carried import store_preprocess
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import get_object
from qpipe.ir.quantized.view import Weighted, read_view
from qpipe.runtime.session import open_session
from support.networks import Weights, float_model
from support.quantize import finalized, quantized
from support.run import assert_exact, run_all
from support.zoo.residual import residual_network

IMAGES = np.random.default_rng(1).standard_normal((8, 3, 8, 8)).astype(np.float32)
STORED = {2: "INT2", 3: "INT4", 4: "INT4", 5: "INT8", 6: "INT8", 7: "INT8", 8: "INT8"}
PACKED = {"INT2", "INT4"}
FORMATS = ("qoperator", "integer", "qdq")
# The kernels of the two convolutions and the matrix behind them.
KERNELS = {
    "qoperator": {"QLinearConv": 2, "MatMulInteger": 1},
    "integer": {"MatMulInteger": 3},
    "qdq": {"QLinearConv": 2, "QGemm": 1},
}
WEIGHTED = ("weight_bits", "activation_bits")
LAYERS = {
    "Conv_c1": WEIGHTED,
    "Conv_c2": WEIGHTED,
    "Add_a": WEIGHTED[1:],
    "GlobalAveragePool_p": WEIGHTED[1:],
    "Gemm_y": WEIGHTED[:1],
}
"""What each layer may be told: the last one gives int32."""
FLOAT_KERNELS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}


def stored_types(path: Path) -> list[str]:
    """Of the weights, which are the largest constants: those of the first layer, the second, and the last."""
    values = (value for value in load_model(path).graph.initializers.values() if len(value.shape) > 1)
    largest = sorted((value for value in values if value.const_value.size >= 160), key=lambda value: str(value.name))
    return [value.dtype.name for value in largest]


def assert_integer_kernels(path: Path, format_: str, folder: Path) -> None:
    """What onnxruntime runs: integer kernels alone, and nothing that unpacks a weight any more."""
    open_session(path, optimized_path=folder / "optimized.onnx")
    graph = onnx.load(folder / "optimized.onnx").graph
    found = Counter(node.op_type for node in graph.node)
    assert {kernel: found[kernel] for kernel in KERNELS[format_]} == KERNELS[format_]
    assert not FLOAT_KERNELS & found.keys()
    assert not PACKED & {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in graph.initializer}


@pytest.mark.parametrize("weights", ["int8", "uint8"])
@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("bits", range(2, 8))
def test_every_width_in_every_format(bits: int, format_: str, weights: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    qdq = quantized(residual_network(), bits=bits)
    qpipe.export(qdq, path, format=format_, weights=weights)
    wide = weights.upper()
    assert stored_types(path) == [wide, STORED[bits] if bits <= 4 else wide, wide]
    assert_integer_kernels(path, format_, tmp_path)
    expected = run_all(open_session(finalized(quantized(residual_network(), bits=bits))), IMAGES)[0]
    np.testing.assert_array_equal(run_all(open_session(path), IMAGES)[0], expected)
    report = qpipe.validate([qdq, path], [IMAGES])
    assert report.ok
    assert [row.integers_equal for row in report.rows] == [True, True]
    assert [row.certificate for row in report.rows] == ["holds", "holds"]
    assert report.rows[1].size == path.stat().st_size


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("format_", ["qoperator", "integer"])
@pytest.mark.parametrize("bits", [2, 3, 4, 7])
def test_integer_ends_at_every_width(bits: int, format_: str, layout: str, tmp_path: Path) -> None:
    preprocess, path = Preprocess(mean=(0.5,), std=(0.25,)), tmp_path / "net.onnx"
    qdq = quantized(residual_network(), bits=bits)
    store_preprocess(qdq, preprocess)
    exported = qpipe.export(qdq, path, format=format_, io="integer", layout=layout)
    assert STORED[bits] in stored_types(path)
    assert_integer_kernels(path, format_, tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
    found = run_all(open_session(path), pixels if layout == "NHWC" else pixels.transpose(0, 3, 1, 2))[0]
    expected = run_all(open_session(finalized(qdq)), preprocess(pixels))[0]
    np.testing.assert_array_equal(found * np.float32(get_object(exported, "io")["scales"]["y"]), expected)


def calibrated(layers: Sequence[Mapping[str, Any]], seed: int = 0) -> ir.Model:
    """The residual network, some of its layers with widths of their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a tensor of zeros is nothing special in a random network
        return qpipe.calibrate(residual_network(seed), IMAGES, batches=1, layers=layers)


@pytest.mark.slow
@settings(max_examples=10)
@given(data=st.data())
def test_any_inner_convolution_of_any_width(data: st.DataObject) -> None:
    """Grouped, depthwise, strided, dilated, before any activation or none: every format passes the gate."""
    draw = data.draw
    groups, inputs, outputs = (draw(st.integers(1, 3)) for _ in range(3))
    kernel, strides, dilations = (draw(st.tuples(*[st.integers(1, 3)] * 2)) for _ in range(3))
    pads = draw(st.tuples(*[st.integers(0, 2)] * 4))
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w0", groups * inputs, 3, 1, 1)
    w.normal("w1", groups * outputs, inputs, *kernel)
    w.normal("b1", groups * outputs)
    w.normal("w2", 5, groups * outputs, 1, 1)
    w.constants |= {"low": np.float32(0), "six": np.float32(0.7)}
    text = f"group={groups}, strides={list(strides)}, dilations={list(dilations)}, pads={list(pads)}"
    activation = draw(st.sampled_from(["r = Relu(c)", "r = Identity(c)", "r = Clip(c, low, six)"]))
    nodes = ["z = Conv(x, w0)", "s = Relu(z)", f"c = Conv<{text}>(s, w1, b1)", activation, "y = Conv(r, w2)"]
    qdq = quantized(float_model("net", (3, 8, 7), nodes, **w.constants), bits=draw(st.integers(2, 7)))
    for format_ in FORMATS:
        qpipe.export(qdq, format=format_, weights=draw(st.sampled_from(["int8", "uint8"])))


@pytest.mark.slow
@settings(max_examples=8)
@given(data=st.data())
def test_any_mixture_of_widths(data: st.DataObject) -> None:
    """The executor's evaluation, the finalized file and every export compute the same."""
    widths = {
        name: {key: data.draw(st.integers(2, 8), label=f"{name} {key}") for key in keys}
        for name, keys in LAYERS.items()
    }
    qdq = calibrated([{"match": name, **own} for name, own in widths.items()], data.draw(st.integers(0, 3)))
    bits = {layer.name: layer.weight.format.bits for layer in read_view(qdq).layers if isinstance(layer, Weighted)}
    assert bits == {name: own["weight_bits"] for name, own in widths.items() if "weight_bits" in own}
    assert_exact(qdq, IMAGES)
    expected = run_all(open_session(finalized(qdq)), IMAGES)[0]
    exported = [qpipe.export(qdq, format=format_) for format_ in FORMATS]
    for model in exported:
        np.testing.assert_array_equal(run_all(open_session(model), IMAGES)[0], expected)
    report = qpipe.validate([qdq, *exported], [IMAGES])
    assert (report.ok, {row.integers_equal for row in report.rows}) == (True, {True})


@pytest.mark.parametrize("format_", FORMATS)
def test_each_weight_has_the_type_of_its_own_width(format_: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    qdq = calibrated([{"match": "Conv_c2", "weight_bits": 2}, {"match": "Gemm_y", "weight_bits": 4}])
    qpipe.export(qdq, path, format=format_)
    assert stored_types(path) == ["INT8", "INT2", "INT4"]
    assert_integer_kernels(path, format_, tmp_path)
