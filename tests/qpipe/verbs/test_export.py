"""`qpipe.export`: formats, what is refused, what a file carries."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import qpipe
import qpipe.verbs.export as export_module
from passes.shipping.finalize import Finalize
from passes.shipping.share_constants import ShareConstants
from passes.skips.strip_skips import StripSkips
from qpipe.data import Preprocess
from qpipe.data.carried import store_preprocess
from qpipe.errors import LoweringError, ModelError, ParityError, RecipeError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import COMPARISON, TRAINING, get_object, get_provenance, set_json
from qpipe.ir.quantized.certify import check_certificate
from qpipe.ir.quantized.view import read_view
from qpipe.ir.quantized.view_weights import QUANTIZATION
from qpipe.runtime.session import open_session
from support.quantize import finalized, quantized
from support.run import run_all
from support.zoo.digits import digits_model
from support.zoo.residual import residual_network

IMAGES = np.random.default_rng(1).standard_normal((8, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def qdq() -> ir.Model:
    return quantized(residual_network())


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return run_all(open_session(finalized(quantized(residual_network()))), IMAGES)[0]


@pytest.mark.parametrize("weights", ["int8", "uint8"])
@pytest.mark.parametrize("format_", ["qoperator", "integer", "qdq"])
def test_every_format_computes_the_same_integers(qdq, expected, tmp_path, format_, weights):
    path = tmp_path / "net.onnx"
    exported = qpipe.export(qdq, path, format=format_, weights=weights)
    np.testing.assert_array_equal(run_all(open_session(path), IMAGES)[0], expected)
    assert check_certificate(load_model(path)) == []
    assert get_object(exported, "certificate")["weights"] == weights
    assert get_provenance(exported)[0].name == "finalize"


def test_what_calibration_saw_stays_in_the_qdq_file() -> None:
    calibrated = qpipe.calibrate(residual_network(), IMAGES)
    assert get_object(calibrated, COMPARISON)
    assert get_object(qpipe.export(calibrated), COMPARISON) is None


@pytest.mark.parametrize("format_", ["qoperator", "integer", "qdq"])
def test_the_certificate_of_a_4_bit_file_holds_when_it_is_read_again(tmp_path, format_):
    path = tmp_path / "net.onnx"
    qpipe.export(quantized(residual_network(), bits=4), path, format=format_)
    loaded = load_model(path)
    assert any(value.dtype == ir.DataType.INT4 for value in loaded.graph.initializers.values())
    assert check_certificate(loaded) == []


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("format_", ["qoperator", "integer"])
def test_integer_ends_give_the_same_integers(qdq, format_, layout):
    model, preprocess = qdq.clone(), Preprocess(mean=(0.5,), std=(0.25,))
    store_preprocess(model, preprocess)
    exported = qpipe.export(model, format=format_, io="integer", layout=layout)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
    found = run_all(open_session(exported), pixels if layout == "NHWC" else pixels.transpose(0, 3, 1, 2))[0]
    expected = run_all(open_session(finalized(quantized(residual_network()))), preprocess(pixels))[0]
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found * np.float32(get_object(exported, "io")["scales"]["y"]), expected)


@pytest.mark.parametrize("format_", ["qoperator", "integer", "qdq"])
def test_resnet20_on_real_images(shared, format_):
    model = load_model(shared / "models" / "resnet20_cifar10_bn.onnx")
    with np.load(shared / "data" / "cifar10.npz") as arrays:
        pixels = arrays["test_images"][:256]
    images = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))(pixels)
    qdq = quantized(model, inputs=[images[:128]])
    exported = qpipe.export(qdq, format=format_, data=[images[:64]])
    spec = qdq.clone()
    Finalize()(spec)
    expected, found = (run_all(open_session(each), images)[0] for each in (spec, exported))
    np.testing.assert_array_equal(found, expected)
    gate = get_object(exported, "certificate")["gate"]
    assert (gate["images"], gate["tensors"]) == (64, 38)


def test_the_argument_stays_as_it_was(qdq):
    before = ir.to_proto(qdq).SerializeToString(deterministic=True)
    qpipe.export(qdq)
    assert ir.to_proto(qdq).SerializeToString(deterministic=True) == before


def test_a_proto_and_a_finalized_model_are_taken(expected):
    exported = qpipe.export(
        onnx.ModelProto.FromString(ir.to_proto(finalized(quantized(residual_network()))).SerializeToString())
    )
    np.testing.assert_array_equal(run_all(open_session(exported), IMAGES)[0], expected)


def test_the_certificate_says_what_the_gate_ran(qdq):
    alone = get_object(qpipe.export(qdq), "certificate")["gate"]
    assert (alone["images"], alone["extreme_rows"]) == (0, 16)
    with_images = get_object(qpipe.export(qdq, data=[IMAGES]), "certificate")["gate"]
    assert with_images["images"] == 8


def test_unsafe_weights_are_refused_by_name():
    model = quantized(residual_network(), cpu="vnni")
    weight = model.graph.initializers["Conv_c2_weight"]
    array = weight.const_value.numpy().copy()
    array[0, :2, 0, 0] = array[0].max() * 100
    weight.const_value = ir.tensor(array, name=weight.name)
    set_json(model, QUANTIZATION, {"weight_clip": None, "cpu": "vnni"})
    with pytest.raises(LoweringError, match=r"^not exact: Conv 'Conv_c1': 7 pairs of .* \(and 1 more such problems\)$"):
        qpipe.export(model)
    for format_ in ("qoperator", "integer", "qdq"):
        waived, unsigned = (qpipe.export(model, format=format_, **x) for x in ({"cpu": "vnni"}, {"weights": "uint8"}))
        assert get_object(waived, "certificate")["pairs"] == "waived"
        assert get_object(unsigned, "certificate")["pairs"] == "not needed"


@dataclass(frozen=True, kw_only=True)
class SneakFloats(ir.passes.InPlacePass):
    """The first uint8 tensor makes a detour through float."""

    name: ClassVar[str] = "sneak-floats"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        value = next(value for node in model.graph for value in node.outputs if value.dtype == ir.DataType.UINT8)
        uses = list(value.uses())
        there = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name="there")
        back = ir.node("Cast", there.outputs, {"to": ir.DataType.UINT8}, name="back")
        for node, dtype in ((there, ir.DataType.FLOAT), (back, ir.DataType.UINT8)):
            node.outputs[0].name, node.outputs[0].type = node.name, ir.TensorType(dtype)
        for node, index in uses:
            node.replace_input_with(index, back.outputs[0])
        model.graph.insert_after(value.producer(), [there, back])
        return ir.passes.PassResult(model, True)


def test_an_integer_graph_with_a_float_is_refused_by_its_name(qdq, tmp_path, monkeypatch):
    lowering = export_module._lowering
    monkeypatch.setattr(export_module, "_lowering", lambda *arguments: [*lowering(*arguments), SneakFloats()])
    with pytest.raises(LoweringError, match=r": 'there' would be float, expected integers from"):
        qpipe.export(qdq, tmp_path / "net.onnx", format="integer")
    assert list(tmp_path.iterdir()) == []


def test_a_qdq_file_that_is_not_what_was_finalized_is_refused(qdq, tmp_path, monkeypatch):
    """It is the specification of its own gate, so that nothing else would notice."""

    def share(self, model):
        layer = read_view(model).layers[0]
        codes = layer.node.inputs[1].producer().inputs[0]
        codes.const_value = ir.tensor(-codes.const_value.numpy(), name=codes.name)
        return ir.passes.PassResult(model, True)

    monkeypatch.setattr(ShareConstants, "call", share)
    with pytest.raises(ParityError, match="integers are not those that were finalized"):
        qpipe.export(qdq, tmp_path / "net.onnx", format="qdq")
    assert not (tmp_path / "net.onnx").exists()


def test_a_qdq_file_with_integer_ends_is_refused(qdq):
    with pytest.raises(RecipeError, match="qdq file has float inputs"):
        qpipe.export(qdq, format="qdq", io="integer")


def test_a_layout_without_integer_ends_is_refused(qdq):
    with pytest.raises(RecipeError, match=r"^layout: 'NHWC', but without effect, expected io 'integer' with it$"):
        qpipe.export(qdq, layout="NHWC")


def test_a_float_model_is_refused():
    with pytest.raises(ModelError, match="run `qpipe calibrate` first"):
        qpipe.export(residual_network())


def test_nothing_is_written_where_the_export_fails(tmp_path):
    with pytest.raises(ModelError):
        qpipe.export(residual_network(), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_keeps_its_skips_is_no_plain_one(qdq, tmp_path):
    with pytest.raises(
        LoweringError, match=r"trained with the skips of '.*', and would lose its accuracy .* qpipe finet"
    ):
        qpipe.export(qdq, tmp_path / "plain.onnx", plain=True)
    assert not (tmp_path / "plain.onnx").exists()
    model = qdq.clone()
    set_json(model, TRAINING, {"accuracy_after": 0.9173})
    with pytest.raises(LoweringError, match=r"would lose its top-1 of 91\.73 %"):
        qpipe.export(model, plain=True)


def test_a_plain_network_has_no_sum_of_activations(qdq):
    model = qdq.clone()
    StripSkips()(model)
    ops = {node.op_type for node in qpipe.export(model, plain=True).graph}
    assert "QLinearConv" in ops
    assert "QLinearAdd" not in ops


def test_a_tail_that_casts_to_integers_counts_as_a_tail() -> None:
    behind = ["[c] i = Cast<to=6>(logits)", "[f] f = Cast<to=1>(i)", "[s] answer = Softmax(f)"]
    exported = qpipe.export(qpipe.calibrate(digits_model(behind=behind), "digits", batches=1), format="integer")
    assert qpipe.inspect(exported).kind == "integer"
