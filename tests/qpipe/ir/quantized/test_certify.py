"""The certificate of a graph, and whether a file is still what it was made for."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from passes.shipping.lower_qoperator import LowerQOperator
from passes.shipping.weights_to_uint8 import WeightsToUint8
from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import get_object, set_json
from qpipe.ir.files.save import save_model
from qpipe.ir.quantized.certify import certify, check_certificate, graph_digest, store_certificate
from qpipe.ir.quantized.view import read_view
from qpipe.ops.average_pool import counts
from support.networks import Weights, float_model
from support.quantize import finalized, quantized
from support.saturating_kernel import saturating_conv_u8s8
from support.zoo.residual import residual_network


def certified(**options) -> ir.Model:
    model = finalized(quantized(residual_network(), **options))
    store_certificate(model, certify(read_view(model)))
    return model


def change_weight(model: ir.Model, name: str, index: int, value: int) -> None:
    constant = model.graph.initializers[name]
    array = constant.const_value.numpy().copy()
    array.flat[index] = value
    constant.const_value = ir.tensor(array, name=name)


@pytest.mark.parametrize("bits", [8, 4])
def test_every_layer_that_computes_has_a_row(bits):
    certificate = certify(read_view(finalized(quantized(residual_network(), bits=bits))))
    assert [(row.layer, row.op) for row in certificate.rows] == [
        ("Conv_c1", "Conv"),
        ("Conv_c2", "Conv"),
        ("Add_a", "Add"),
        ("GlobalAveragePool_p", "GlobalAveragePool"),
        ("Gemm_y", "Gemm"),
    ]
    assert certificate.problems == []
    first, second = certificate.rows[:2]
    assert (first.bits, second.bits) == ("8/8", f"{bits}/{bits}")
    assert first.channels == first.by_shift + first.by_float32 == 16


def test_unsafe_pairs_are_refused_waived_or_not_needed():
    model = finalized(quantized(residual_network(), cpu="vnni"))
    change_weight(model, "Conv_c2_final_weight", 0, 127)
    change_weight(model, "Conv_c2_final_weight", 9, 127)  # the next input channel at the same place
    view = read_view(model)
    assert any(problem.startswith("Conv 'Conv_c2': ") for problem in certify(view).problems)
    assert certify(view, cpu="vnni").problems == []
    assert certify(view, weights="uint8").problems == []


def test_a_depthwise_convolution_is_exempt():
    w = Weights()
    w.normal("w1", 4, 1, 3, 3)
    w.normal("w2", 5, 4, 1, 1)
    nodes = ["c = Conv<group=4>(x, w1)", "r = Relu(c)", "y = Conv(r, w2)"]
    model = finalized(quantized(float_model("net", (4, 8, 8), nodes, **w.constants)))
    name = next(
        name for name in model.graph.initializers if name.startswith("Conv_c") and name.endswith("final_weight")
    )
    change_weight(model, name, 0, 127)
    change_weight(model, name, 1, 127)
    certificate = certify(read_view(model))
    assert certificate.rows[0].unsafe_pairs > 0
    assert certificate.problems == []


@pytest.mark.parametrize(
    ("groups", "inputs", "outputs"), [(1, 3, 8), (4, 2, 2), (8, 1, 1), (8, 1, 2)], ids=lambda count: str(count)
)
def test_what_it_proves_is_exact_on_a_saturating_kernel(groups, inputs, outputs):
    """Also of one input and several output channels a group, which is no depthwise convolution to onnxruntime."""
    w = Weights()
    w.normal("w1", groups * outputs, inputs, 3, 3)
    w.normal("w2", 5, groups * outputs, 1, 1)
    nodes = [f"c = Conv<group={groups}>(x, w1)", "r = Relu(c)", "y = Conv(r, w2)"]
    view = read_view(finalized(quantized(float_model("net", (groups * inputs, 5, 5), nodes, **w.constants))))
    assert certify(view).problems == []
    x = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (64, groups * inputs, 5, 5))
    codes = view.layers[0].weight.codes
    # Products of 0 and 1 never saturate.
    exact = 255 * saturating_conv_u8s8(x // 255, codes, groups=groups)
    np.testing.assert_array_equal(saturating_conv_u8s8(x, codes, groups=groups), exact)


def test_an_inexact_window_is_refused():
    w = Weights()
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 5, 4, 1, 1)
    w.constants["b1"] = np.full(4, 8, np.float32)  # the mean is as large as the values: it has the same grid
    nodes = ["c = Conv(x, w1, b1)", "r = Relu(c)", "p = AveragePool<kernel_shape=[7, 4]>(r)", "y = Conv(p, w2)"]
    certificate = certify(read_view(finalized(quantized(float_model("net", (3, 9, 9), nodes, **w.constants)))))
    assert "averages 28 values" in certificate.problems[0]


def test_a_stored_certificate_holds_after_saving(tmp_path):
    model = certified()
    save_model(model, tmp_path / "net.onnx")
    loaded = load_model(tmp_path / "net.onnx")
    assert check_certificate(loaded) == []
    assert get_object(loaded, "certificate")["layers"][0]["layer"] == "Conv_c1"


def test_a_changed_integer_is_noticed():
    model = certified()
    change_weight(model, "Conv_c1_final_weight", 3, -127)
    assert "not those" in check_certificate(model)[0]


def test_a_certificate_that_claims_something_else_is_noticed():
    model = certified()
    stored = get_object(model, "certificate")
    stored["layers"][0]["largest_accumulator"] = 1
    set_json(model, "certificate", stored)
    assert check_certificate(model) == [
        "the certificate is not as it was written",
        "the certificate does not say what the file's integers prove",
    ]


@pytest.mark.parametrize(("key", "value"), [("cpu", "vnni"), ("gate", {"images": 10**6}), ("layers", [])])
def test_a_changed_certificate_is_noticed_in_any_format(key, value):
    """Of an export there is nothing to prove anew."""
    spec = finalized(quantized(residual_network()))
    model = spec.clone()
    LowerQOperator()(model)
    store_certificate(model, certify(read_view(spec)))
    stored = get_object(model, "certificate")
    set_json(model, "certificate", stored | {key: value})
    assert check_certificate(model) == ["the certificate is not as it was written"]


@pytest.mark.parametrize("lower", [LowerQOperator(), WeightsToUint8()])
def test_any_format_can_be_checked(lower):
    spec = finalized(quantized(residual_network()))
    model = spec.clone()
    lower(model)
    store_certificate(model, certify(read_view(spec), weights="uint8" if lower.name == "weights-to-uint8" else "int8"))
    assert check_certificate(model) == []
    bias = next(name for name in model.graph.initializers if "Conv_c1" in name and name.endswith("bias"))
    change_weight(model, bias, 0, 5)
    assert check_certificate(model) != []


def test_an_export_that_can_be_read_as_a_qdq_file_is_none():
    """A ReduceMean at a network's begin stands between quantizers in `qoperator` too: its rows are not all that is."""
    model = finalized(quantized(residual_network()))
    nothing = replace(certify(read_view(model)), rows=())
    store_certificate(model, nothing)
    assert check_certificate(model) == ["the certificate does not say what the file's integers prove"]
    codes = next(node.outputs[0] for node in model.graph if node.op_type == "QuantizeLinear")
    product = ir.node("MatMulInteger", [codes, codes], name="of_an_export")
    product.outputs[0].name = "product"
    model.graph.append(product)
    assert read_view(model).layers
    store_certificate(model, nothing)
    assert check_certificate(model) == []


def test_a_changed_node_changes_the_digest():
    model = certified()
    before = graph_digest(model)
    assert graph_digest(model.clone()) == before
    next(node for node in model.graph if node.op_type == "Conv").attributes["pads"] = ir.AttrInt64s(
        "pads", [0, 1, 1, 1]
    )
    assert graph_digest(model) != before


def test_a_model_without_certificate():
    with pytest.raises(ModelError, match="no certificate"):
        check_certificate(finalized(quantized(residual_network())))


def test_values_of_the_certificate_are_plain():
    row = certify(read_view(finalized(quantized(residual_network())))).rows[0].to_json()
    assert all(isinstance(value, str | int | bool | list) or value is None for value in row.values())
    assert not any(isinstance(value, np.generic) for value in row.values())


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]", {4, 6, 9}),
        ("kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1", {9}),
        ("kernel_shape=[2, 2], strides=[2, 2]", {4}),
        ("kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1", {1, 2, 4}),
        ("kernel_shape=[7, 7]", {49}),
    ],
)
def test_counts_of_an_average_pool(attributes, expected):
    w = Weights()
    w.normal("w1", 5, 3, 1, 1)
    nodes = [f"p = AveragePool<{attributes}>(x)", "y = Conv(p, w1)"]
    model = float_model("net", (3, 7, 7), nodes, **w.constants)
    assert counts(model.graph[0]) == expected
