from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import qpipe
from qpipe.verbs.inspect import CARRIES, FLOAT_TAIL, ISLAND, NO_FORM, QUANTIZED
from support.networks import parse
from support.zoo.digits import digits_model

# Multiply-accumulates of the digits model: 9 * 8 * 64, 9 * 8 * 8 * 64, 9 * 8 * 16 * 16, 64 * 10.
MACS = 4608 + 36864 + 18432 + 640
# Kernels, two BatchNormalizations, one bias, the classifier.
PARAMETERS = 72 + 576 + 1152 + 2 * 16 + 16 + 640 + 10

# What is known of the published networks: kind of answer, parameters, MACs, original opset, ops that stay float.
PUBLISHED = {
    "resnet20_cifar10_bn": (269_722, 40_551_040, 18, set()),
    "resnet20_cifar10_folded": (269_034, 40_551_040, 18, set()),
    "tinyic_resnet8_cifar10": (77_706, 12_501_632, 13, {"Softmax"}),
    "tinykws_dscnn": (22_604, 2_656_768, 13, {"Softmax"}),
    "ultraface_slim320": (
        260_188,
        81_410_560,
        9,
        {"Transpose", "Reshape", "Softmax", "Exp", "Mul", "Add", "Sub", "Div", "Slice", "Concat"},
    ),
    "mnist8_cntk": (5_994, 786_560, 8, set()),
}


def test_a_float_network() -> None:
    report = qpipe.inspect(digits_model())
    assert (report.kind, report.opset, report.ready, report.problems) == ("float", 21, True, ())
    assert [(t.name, t.shape, t.type) for t in report.inputs] == [("x", ("batch", 1, 8, 8), "float")]
    assert [(t.name, t.shape, t.type) for t in report.outputs] == [("logits", ("batch", 10), "float")]
    assert (report.macs, report.parameters) == (MACS, PARAMETERS)
    assert report.ops["Conv"] == 3
    assert report.residual_blocks == ("add",)
    assert {node.name: node.role for node in report.nodes} == {
        **dict.fromkeys(["conv1", "norm1", "relu1", "conv2", "norm2", "add", "relu2"], QUANTIZED),
        **dict.fromkeys(["conv3", "relu3", "pool", "linear"], QUANTIZED),
        "flatten": CARRIES,
    }
    notes = {node.name: node.note for node in report.nodes}
    assert notes["norm1"] == "part of Conv 'conv1'"
    assert notes["conv2"] == "8-bit weights, 8-bit output, signed"
    assert notes["linear"] == "8-bit weights, last layer, int32 output"


def test_all_nodes_without_integer_form_at_once() -> None:
    nodes = [
        "[attend] s = LpNormalization<axis=1>(block)",
        "[share] m = Mod<fmod=1>(block, s)",
        "[halve] between = MaxPool<kernel_shape=[2,2]>(m)",
    ]
    tail = ["[probabilities] answer = Softmax(logits)"]
    report = qpipe.inspect(digits_model(between=nodes, behind=tail))
    found = {node.name: node for node in report.nodes}
    assert [node.name for node in report.nodes if node.role == ISLAND] == ["attend", "share"]
    assert "use BatchNormalization instead" in found["attend"].advice
    assert "replace it by ops" in found["share"].advice
    assert (found["halve"].role, found["conv3"].role) == (CARRIES, QUANTIZED)
    assert found["attend"].note == "stays float between integers"
    assert (found["probabilities"].role, found["probabilities"].advice) == (FLOAT_TAIL, "")
    assert found["conv1"].note.startswith("8-bit weights")
    # They stay float, and the others become integers.
    assert report.ready


def test_a_softmax_along_channels_is_turned_and_becomes_integers() -> None:
    report = qpipe.inspect(digits_model(between=["[attend] between = Softmax<axis=1>(block)"]))
    forms = {node.name: (node.role, node.advice) for node in report.nodes if node.name.startswith("attend")}
    assert forms == {
        "attend_before": (CARRIES, ""), "attend": (QUANTIZED, ""), "attend_behind": (CARRIES, "")
    }  # fmt: skip
    assert report.ready


def test_without_a_layer_of_weights_that_has_an_integer_form_nothing_is_ready() -> None:
    report = qpipe.inspect(
        parse("(float[N,4,4] x) => (float[] y) { [odd] y = MatMul(x, w) }", w=np.ones((2, 4, 4), np.float32))
    )
    (node,) = report.nodes
    assert (node.role, node.advice != "", report.ready) == (NO_FORM, True, False)


@pytest.mark.parametrize("file", ["net.qdq.onnx", "tuned.qdq.onnx"])
def test_a_trainable_network(stages: Path, file: str) -> None:
    report = qpipe.inspect(stages / file)
    # calibrate puts a BatchNormalization behind conv3, whose bias becomes its beta.
    assert (report.kind, report.macs, report.parameters) == ("QDQ, trainable", MACS, PARAMETERS + 16)
    notes = {node.name: node.note for node in report.nodes}
    assert notes["conv1"].startswith("8-bit weights, int8 2^")
    assert notes["linear"].endswith("-> int32")
    assert len(notes) == 13, "the quantizers themselves are left out"


@pytest.mark.parametrize("format_", ["qoperator", "integer", "qdq"])
def test_an_export_says_what_it_is(stages: Path, format_: str) -> None:
    exported = qpipe.export(stages / "tuned.qdq.onnx", format=format_)
    report = qpipe.inspect(exported)
    assert report.kind == {"qdq": "QDQ, final"}.get(format_, format_)
    assert report.ready
    if format_ != "qdq":
        assert {node.role for node in report.nodes} == {"border"}
        assert report.roles["border"] == 2


def test_a_network_of_another_tool_is_named_as_such(stages: Path) -> None:
    model = onnx.load(stages / "net.qdq.onnx")
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == "x_scale")
    scale.CopyFrom(onnx.numpy_helper.from_array(np.float32(0.3), "x_scale"))
    report = qpipe.inspect(model)
    assert (report.kind, report.ready) == ("QDQ of another form", False)
    assert "scale 0.3, expected a power of two" in report.problems[0]


def test_what_else_stands_in_the_way_is_said() -> None:
    two_inputs = parse("(float[1,4] x, float[1,4] z) => (float[] y) { y = Add(x, z) }")
    assert qpipe.inspect(two_inputs).problems == ("no Conv, Gemm or MatMul with constant weights: nothing to quantize",)


def test_models_of_all_kinds_are_taken_and_left_as_they_are(stages: Path) -> None:
    model = ir.load(stages / "net.onnx")
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert qpipe.inspect(model) == qpipe.inspect(stages / "net.onnx") == qpipe.inspect(onnx.load(stages / "net.onnx"))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_the_opset_is_the_files_own(stages: Path) -> None:
    old = onnx.load(stages / "net.onnx")
    old.opset_import[0].version = 13
    assert qpipe.inspect(old).opset == 13


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(name: str, shared: Path) -> None:
    parameters, macs, opset, tail = PUBLISHED[name]
    report = qpipe.inspect(shared / "models" / f"{name}.onnx")
    assert (report.kind, report.ready) == ("float", True)
    assert (report.parameters, report.macs, report.opset) == (parameters, macs, opset)
    assert {node.op for node in report.nodes if node.role == FLOAT_TAIL} == tail
    assert report.roles[QUANTIZED] > 3
