import json
import shutil
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

import qpipe
from qpipe.errors import ModelError
from qpipe.ir.files.metadata import set_json
from qpipe.ir.files.save import save_model
from qpipe.reporting.reading import read_run, stem
from qpipe.state import STATE_FILE, State
from support.quantize import finalized, quantized
from support.zoo.residual import residual_network


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = quantized(residual_network(), bits=4)
    record = {
        "epochs": [{"number": 1, "loss": 0.5, "accuracy": 0.9}],
        "accuracy_after": 0.8,
        "phases": [{"phase": "float", "accuracy": 0.82}, {"phase": "trained", "accuracy": 0.8}],
    }
    set_json(model, "training", record)
    path = tmp_path_factory.mktemp("run") / "tuned.qdq.onnx"
    save_model(model, path)
    return path


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    path = trained.with_name("tuned.int8.onnx")
    qpipe.export(trained, path)
    return path


def test_a_trainable_file(trained: Path) -> None:
    run = read_run(trained)
    assert run.name == "tuned"
    assert run.kind == "QDQ, trainable"
    assert run.weight_bits == {8: 2, 4: 1}
    assert run.activation_bits == {8: 5, 4: 1}
    assert run.training.accuracy_after == 0.8
    assert run.float_accuracy == 0.82
    assert run.certificate is None
    assert run.shipped.size == trained.stat().st_size
    assert read_run(trained, "mine").name == "mine"


def test_an_export_tells_the_same_and_brings_its_certificate(trained: Path, exported: Path) -> None:
    run = read_run(exported)
    assert run.kind == "qoperator"
    assert run.training == read_run(trained).training
    assert run.weight_bits == {8: 2, 4: 1}
    assert run.certificate is not None
    assert run.certificate_problems == ()
    assert [applied.name for applied in run.provenance][-1] == "lower-qoperator"


def test_a_certificate_is_checked_again(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    onnx.save(model, tmp_path / "changed.onnx")
    assert read_run(tmp_path / "changed.onnx").certificate_problems


def test_a_finalized_graph_has_widths_too(tmp_path: Path) -> None:
    save_model(finalized(quantized(residual_network(), bits=4)), tmp_path / "final.onnx")
    assert read_run(tmp_path / "final.onnx").weight_bits == {8: 2, 4: 1}


def test_a_float_network_that_was_trained_here(tmp_path: Path) -> None:
    model = residual_network()
    set_json(model, "training", {"epochs": [{"number": 1, "loss": 0.5}], "accuracy_after": 0.8})
    save_model(model, tmp_path / "low.onnx")
    run = read_run(tmp_path / "low.onnx")
    assert run.is_float
    assert run.training.accuracy_after == 0.8
    assert run.weight_bits == run.activation_bits == {}


def test_weights_beside_the_file_count(trained: Path, tmp_path: Path) -> None:
    save_model(ir.load(trained), tmp_path / "net.onnx", external_data="net.onnx.data")
    (file,) = read_run(tmp_path / "net.onnx").files
    assert file.size == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_what_is_no_run(tmp_path: Path) -> None:
    save_model(residual_network(), tmp_path / "float.onnx")
    with pytest.raises(ModelError, match=r"float.onnx: is a float network, expected what `qpipe finetune`"):
        read_run(tmp_path / "float.onnx")
    with pytest.raises(ModelError, match="no such file"):
        read_run(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="no finished stage is recorded in it, expected the folder of a `qpipe run`"):
        read_run(tmp_path)


@pytest.fixture
def folder(trained: Path, exported: Path, tmp_path: Path) -> Path:
    """What `qpipe run` leaves, without running it."""
    state, rows = State(tmp_path), [{"name": "out/float.onnx", "kind": "float", "top1": 0.9}]
    (tmp_path / "report.json").write_text(json.dumps({"ok": True, "rows": rows}))
    shutil.copy(trained, tmp_path / "finetuned.qdq.onnx")
    shutil.copy(exported, tmp_path / "model.qoperator.onnx")
    for stage, output in (
        ("finetune", "finetuned.qdq.onnx"),
        ("export-qoperator", "model.qoperator.onnx"),
        ("validate", "report.json"),
    ):
        state.end(stage, "key", tmp_path / output, 1.5)
    return tmp_path


def test_a_folder_of_run(folder: Path) -> None:
    run = read_run(folder)
    assert run.name == folder.name
    assert run.kind == "QDQ, trainable"
    assert run.certificate is not None
    assert run.certificate_source == "stored in model.qoperator.onnx by its export"
    assert run.float_accuracy == 0.9
    assert run.rows[0]["name"] == "float.onnx"
    assert run.shipped.name == "model.qoperator.onnx"
    assert [file.name for file in run.files] == ["finetuned.qdq.onnx", "model.qoperator.onnx"]
    assert run.stages["validate"] == 1.5


def test_a_folder_that_is_not_finished(folder: Path) -> None:
    state = json.loads((folder / STATE_FILE).read_text())
    del state["finished"]["validate"], state["finished"]["export-qoperator"]
    (folder / STATE_FILE).write_text(json.dumps(state))
    run = read_run(folder)
    assert run.rows == ()
    assert run.float_accuracy == 0.82, "what training counted"
    assert run.certificate is None
    assert run.shipped.name == "finetuned.qdq.onnx"


def test_a_folder_whose_files_were_spoilt(folder: Path) -> None:
    (folder / "report.json").write_text("[]")
    with pytest.raises(ModelError, match=r"report.json: not the report of a `qpipe run`"):
        read_run(folder)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/net.qdq.onnx", "net"), ("net.onnx", "net"), ("net.int8.onnx", "net.int8"), ("net", "net")],
)
def test_stem(name: str, expected: str) -> None:
    assert stem(Path(name)) == expected
