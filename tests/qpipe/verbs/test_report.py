import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qpipe
from qpipe.errors import ModelError, OutputError, QpipeError


def test_a_trained_file_becomes_a_page(stages: Path, tmp_path: Path) -> None:
    page = qpipe.report(stages / "tuned.qdq.onnx", tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page.html
    assert page.html.startswith("<!DOCTYPE html>")
    (facts,) = page.to_json()["runs"]
    assert facts["epochs"] == 3
    assert facts["weight_bits"] == {8: 4}
    assert facts["bytes"] == (stages / "tuned.qdq.onnx").stat().st_size
    assert page.to_json()["missing"] == list(page.missing)


def test_a_file_without_a_certificate_is_proven(stages: Path) -> None:
    (run,) = qpipe.report(stages / "tuned.qdq.onnx").runs
    (exported,) = qpipe.report(stages / "net.int8.onnx").runs
    assert run.certificate_source == "proven for this page"
    assert run.certificate is not None
    assert exported.certificate is not None
    assert run.certificate.layers == exported.certificate.layers
    assert run.certificate.gate is None
    assert exported.certificate.gate is not None
    assert exported.certificate.gate.integers > 0


def test_runs_of_one_name_are_told_apart(stages: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(stages / "tuned.qdq.onnx", tmp_path / folder)
    paths = [tmp_path / "a" / "tuned.qdq.onnx", tmp_path / "b" / "tuned.qdq.onnx"]
    assert [run.name for run in qpipe.report(paths).runs] == ["a/tuned", "b/tuned"]
    assert [run.name for run in qpipe.report(paths[:1] * 2).runs] == ["a/tuned (1)", "a/tuned (2)"]
    page = qpipe.report(paths, names=["first", "second"], title="both")
    assert [run.name for run in page.runs] == ["first", "second"]
    assert "<title>both</title>" in page.html


def test_the_float_accuracy_may_be_told(stages: Path) -> None:
    page = qpipe.report(stages / "tuned.qdq.onnx", float_accuracy=0.9944)
    assert "99.44 %" in page.html
    assert not any("float" in sentence for sentence in page.missing)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"names": ["a", "b"]}, "2 names for 1 runs, expected one for each"),
        ({"float_accuracy": 91.7}, "float_accuracy: 91.7, expected less than or equal to 1"),
    ],
)
def test_wrong_arguments(stages: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(QpipeError, match=words):
        qpipe.report(stages / "tuned.qdq.onnx", **arguments)


def test_what_cannot_be_reported(stages: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no runs were given"):
        qpipe.report([])
    with pytest.raises(ModelError, match="is a float network"):
        qpipe.report(stages / "net.onnx")
    with pytest.raises(OutputError, match="does not exist"):
        qpipe.report(stages / "tuned.qdq.onnx", tmp_path / "no" / "report.html")
    model = onnx.load(stages / "tuned.qdq.onnx")
    for entry in model.metadata_props:
        if entry.key == "qpipe.training":
            entry.value = '{"epochs": 3}'
    onnx.save(model, tmp_path / "spoilt.onnx")
    with pytest.raises(ModelError, match=r"'qpipe.training': epochs"):
        qpipe.report(tmp_path / "spoilt.onnx")


def test_diagnostics_of_a_run_are_drawn(stages: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (96, 8, 8, 1)).astype(np.uint8)
    data = (images, np.arange(96) % 10)
    training: Any = {"epochs": 2, "lr": 0.01, "batch_size": 16, "flip": False, "evaluate": False}
    qpipe.finetune(stages / "net.qdq.onnx", data, tmp_path / "tuned.qdq.onnx", diagnose=True, **training)
    page = qpipe.report(tmp_path / "tuned.qdq.onnx")
    assert page.html.count("<svg") == 4
    (run,) = page.runs
    found = run.training.diagnostics
    assert found is not None
    assert found.layers == ["conv1", "conv2", "conv3", "linear"]
    assert found.step_updates == (7, 12)
    assert found.neuron_cosine is not None
    assert found.neuron_cosine.mean > 0.9
    plain = qpipe.finetune(stages / "net.qdq.onnx", data, **training)
    diagnosed = onnx.load(tmp_path / "tuned.qdq.onnx")
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in diagnosed.graph.initializer}
    for name, value in plain.graph.initializers.items():
        assert value.const_value is not None
        np.testing.assert_array_equal(weights[name], value.const_value.numpy())


@pytest.mark.parametrize("name", ["model.qoperator.onnx", "report.json", "state.json"])
def test_a_page_does_not_take_the_place_of_what_it_is_about(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("of a run")
    with pytest.raises(OutputError, match=r"is the input and the output|is there already, in the folder"):
        qpipe.report(tmp_path, tmp_path / name)
    assert (tmp_path / name).read_text() == "of a run"
