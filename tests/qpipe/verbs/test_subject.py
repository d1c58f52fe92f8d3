"""What trains without its skips starts where `calibrate --plain` ends, of a float network and of a quantized one."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import qpipe
from qpipe.errors import ModelError, QpipeError, RecipeError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import CALIBRATION, get_json, set_json
from qpipe.ir.graph.residual import find_blocks
from qpipe.settings import CalibrationRecord, FinetuneSettings
from qpipe.settings.recipes import resolve
from qpipe.verbs.subject import Subject, make_subject
from support.networks import ops
from support.zoo.digits import PREPROCESS


def subject_of(path: Path, network: ir.Model | None = None, **options: Any) -> Subject:
    run = resolve(FinetuneSettings(plain=True, **options), strips=True)
    return make_subject(run, network or load_model(path), path, "digits", seed=3, preprocess=PREPROCESS)


def weights(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}


def assert_same(found: ir.Model, expected: ir.Model) -> None:
    assert ops(found) == ops(expected)
    mine, theirs = weights(found), weights(expected)
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_a_float_network_is_refitted_and_calibrated(stages: Path) -> None:
    subject = subject_of(stages / "net.onnx")
    expected = qpipe.calibrate(stages / "net.onnx", "digits", plain=True, seed=3, preprocess=PREPROCESS)
    assert_same(subject.network, expected)
    assert list(subject.phases) == ["float", "skips stripped"]
    # The teacher is the float network, with its skips.
    assert [block.name for block in find_blocks(subject.origin.graph)] == ["add"]
    assert "QuantizeLinear" not in ops(subject.origin)


def test_skips_that_are_carried_change_no_accuracy(stages: Path) -> None:
    subject = subject_of(stages / "net.onnx", strip="exact")
    assert "Add" not in ops(subject.network)
    exported = qpipe.export(subject.network, plain=True)
    before, after = (row.top1 for row in qpipe.validate([stages / "net.onnx", exported], "digits").rows)
    assert before is not None
    assert after == pytest.approx(before, abs=0.02)  # of 8 bits


def test_a_quantized_network_is_calibrated_again_as_it_was(stages: Path, tmp_path: Path) -> None:
    told: dict[str, Any] = {
        "weight_bits": 4, "activation_bits": 5, "percentile": 99.5, "batches": 2, "batch_size": 100, "seed": 7,
        "layers": [{"match": "conv2", "weight_bits": 6}],
    }  # fmt: skip
    qpipe.calibrate(stages / "net.onnx", "digits", tmp_path / "net.qdq.onnx", preprocess=PREPROCESS, **told)
    subject = subject_of(tmp_path / "net.qdq.onnx")
    quantized = load_model(tmp_path / "net.qdq.onnx")
    expected = qpipe.calibrate(quantized, "digits", plain=True, **told)
    assert_same(subject.network, expected)
    assert list(subject.phases) == ["quantized, with its skips", "skips stripped"]
    assert_same(subject.origin, quantized)


@pytest.mark.parametrize("name", ["net.onnx", "net.qdq.onnx"])
@pytest.mark.parametrize("options", [{"fade": 0.5}, {"strip": "cut"}])
def test_what_fades_or_is_cut_changes_no_weight(stages: Path, name: str, options: dict[str, Any]) -> None:
    subject = subject_of(stages / name, **options)
    assert list(subject.phases)[-2:] == ["quantized, with its skips", "skips stripped"]
    before = weights(subject.origin)
    kept = weights(subject.network).items()
    assert all(np.array_equal(array, before[key]) for key, array in kept)
    assert "Add" not in ops(subject.network)


def test_ranges_that_were_filled_are_rounded_where_codes_are_carried(stages: Path) -> None:
    filled = qpipe.calibrate(stages / "net.onnx", "digits", activation_rounding="fill", batches=1)
    network = subject_of(stages / "net.onnx", filled, strip="exact").network
    assert "Add" not in ops(network)
    said = get_json(network, CALIBRATION)
    assert isinstance(said, dict)
    assert (said["activation_rounding"], said["batches"]) == (None, 1)


def test_what_a_layer_was_told_goes_with_its_skip(stages: Path) -> None:
    layers = [{"match": match, "activation_bits": 6} for match in ("add", "conv2", "*2")]
    told = qpipe.calibrate(stages / "net.onnx", "digits", layers=layers, batches=1)
    said = get_json(subject_of(stages / "net.onnx", told).network, CALIBRATION)
    assert isinstance(said, dict)
    assert said["layers"] == layers[1:]


def test_a_file_that_does_not_say_how_it_was_calibrated(stages: Path) -> None:
    network = load_model(stages / "net.qdq.onnx")
    set_json(network, CALIBRATION, None)
    message = r"^.*net\.qdq\.onnx: strip: 'refit', but the file does not say how it was calibrated, expected the float"
    with pytest.raises(ModelError, match=message):
        subject_of(stages / "net.qdq.onnx", network)


@pytest.mark.parametrize("record", [{"weight_bits": 99}, {"unknown": 1}, {"layers": [{"match": 5}]}])
def test_a_damaged_record(stages: Path, record: dict[str, Any]) -> None:
    network = load_model(stages / "net.qdq.onnx")
    set_json(network, CALIBRATION, record)
    with pytest.raises(ModelError, match=r"net\.qdq\.onnx: metadata 'qpipe\.calibration': "):
        subject_of(stages / "net.qdq.onnx", network)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"start": "random"}, "the network began with random weights, expected the float network, or strip 'cut'"),
        (
            {"quantizer": "dorefa", "weight_bits": 2, "activation_bits": 2},
            "its weights are on the scale of another quantizer, expected fixed-point ones to take blocks apart with",
        ),
    ],
)
def test_weights_that_nothing_can_be_fitted_to(
    stages: Path, tmp_path: Path, told: dict[str, Any], message: str
) -> None:
    qpipe.calibrate(stages / "net.onnx", "digits", tmp_path / "other.qdq.onnx", batches=1, **told)
    for strip in ("refit", "exact"):
        with pytest.raises(ModelError, match=rf"other\.qdq\.onnx: strip: '{strip}', but .*{message}"):
            subject_of(tmp_path / "other.qdq.onnx", strip=strip)
    assert "Add" not in ops(subject_of(tmp_path / "other.qdq.onnx", strip="cut").network)


def test_the_record_is_what_was_given(stages: Path) -> None:
    layer = {"match": "conv2", "activation_bits": 6}
    network = qpipe.calibrate(
        stages / "net.onnx", "digits", layers=[layer], seed=5, weight_bits=7, batches=1, plain=True, blocks="add"
    )
    said = get_json(network, CALIBRATION)
    assert isinstance(said, dict)
    assert said == said | {"layers": [layer], "seed": 5, "weight_bits": 7, "batches": 1, "percentile": None}
    assert said.keys().isdisjoint({"plain", "blocks", "strip"})
    record = CalibrationRecord.model_validate(said)
    assert (record.to_json(), record.layers[0].activation_bits) == (said, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plain": True, "fade": 0.5, "strip": "refit"}, r"^fade: 0\.5, expected 0 with strip 'refit', after which no"),
        ({"strip": "cut"}, r"^strip: 'cut', but without effect, expected it together with plain$"),
        ({"plain": True, "strip": "burn"}, r"^strip: 'burn', expected 'refit', 'exact' or 'cut'$"),
    ],
)
def test_options_that_do_not_go_together(stages: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        qpipe.finetune(stages / "net.qdq.onnx", "digits", **options)


def test_random_weights_are_cut(stages: Path) -> None:
    cut = qpipe.calibrate(stages / "net.onnx", "digits", plain=True, start="random", batches=1)
    assert "strip-skips" in str(get_json(cut, "provenance"))
    with pytest.raises(QpipeError, match=r"^strip: 'refit', expected 'cut' with random weights$"):
        qpipe.calibrate(stages / "net.onnx", "digits", plain=True, start="random", strip="refit")
