"""The order, resumption and outputs of stages, with verbs that only write a file; the demo runs the real ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from qpipe.errors import ModelError, OutputError, ParityError
from qpipe.pipeline import CHECKPOINT_FILE, run_recipe
from qpipe.settings import LayerSettings
from support.pipeline import ALL, Verbs, kept, recipe_in


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> Verbs:
    return Verbs.in_place(monkeypatch)


def test_all_stages_run_in_order_and_each_reads_the_one_before(tmp_path: Path, verbs: Verbs) -> None:
    report = run_recipe(recipe_in(tmp_path))
    assert verbs.names == ALL
    assert [stage.name for stage in report.stages] == ALL
    assert report.rows == [
        {"name": "net.onnx", "content": "net.onnx"},
        {"name": "calibrated.qdq.onnx", "content": "q(net.onnx, 8)"},
        {"name": "finetuned.qdq.onnx", "content": "f(q(net.onnx, 8), 2)"},
        {"name": "model.qoperator.onnx", "content": "qoperator(f(q(net.onnx, 8), 2))"},
        {"name": "model.integer.onnx", "content": "integer(f(q(net.onnx, 8), 2))"},
    ]
    assert json.loads((tmp_path / "out/report.json").read_text()) == {
        "ok": True,
        "rows": report.rows,
        "task": {"metric": "top-1"},
    }


def test_arguments_reach_the_verbs(tmp_path: Path, verbs: Verbs) -> None:
    recipe = recipe_in(tmp_path, seed=5, preprocess={"mean": [0.5]}, calibrate={"batches": 3, "cpu": "portable"})
    recipe = recipe.model_copy(update={"layers": (LayerSettings(match="layer3.*", weight_bits=4),)})
    run_recipe(recipe)
    arguments = dict(verbs.calls)
    assert arguments["calibrate"]["batches"] == 3
    assert arguments["calibrate"]["layers"] == [recipe.layers[0].arguments()]
    assert {arguments[name]["seed"] for name in ALL[:-1]} == {5}
    assert arguments["calibrate"]["preprocess"] == arguments["validate"]["preprocess"] == {"mean": (0.5,)}
    assert arguments["export-integer"]["data"] == recipe.data.path
    assert arguments["finetune"]["checkpoint"] == tmp_path / "out" / CHECKPOINT_FILE


def test_the_task_is_that_of_training_and_of_comparing(tmp_path: Path, verbs: Verbs) -> None:
    run_recipe(recipe_in(tmp_path, task={"output_name": "logits", "metric": "f1"}))
    arguments = dict(verbs.calls)
    for name in ("finetune", "validate"):
        assert (arguments[name]["output_name"], arguments[name]["metric"]) == ("logits", "f1")
    assert "output_name" not in arguments["calibrate"].keys() | arguments["export-integer"].keys()


def test_without_a_finetune_table_the_calibrated_file_is_exported(tmp_path: Path, verbs: Verbs) -> None:
    run_recipe(recipe_in(tmp_path, finetune=None))
    assert "finetune" not in verbs.names
    assert (tmp_path / "out/model.integer.onnx").read_text() == "integer(q(net.onnx, 8))"


def test_a_rerun_keeps_everything(tmp_path: Path, verbs: Verbs) -> None:
    first = run_recipe(recipe_in(tmp_path))
    verbs.calls.clear()
    second = run_recipe(recipe_in(tmp_path))
    assert verbs.names == []
    assert kept(second) == ALL
    assert second.rows == first.rows


def test_restart_does_everything_again(tmp_path: Path, verbs: Verbs) -> None:
    run_recipe(recipe_in(tmp_path))
    verbs.calls.clear()
    assert kept(run_recipe(recipe_in(tmp_path), restart=True)) == []
    assert verbs.names == ALL


@pytest.mark.parametrize("stage", ALL)
def test_a_run_that_stopped_goes_on_after_the_last_finished_stage(tmp_path: Path, verbs: Verbs, stage: str) -> None:
    verbs.fail_at = stage
    with pytest.raises(ModelError, match="stopped"):
        run_recipe(recipe_in(tmp_path))
    verbs.calls.clear()
    verbs.fail_at = None
    report = run_recipe(recipe_in(tmp_path))
    assert verbs.names == ALL[ALL.index(stage) :]
    assert kept(report) == ALL[: ALL.index(stage)]


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"calibrate": {"weight_bits": 4}}, ALL),
        # The output comes out the same, so what reads it is kept.
        ({"calibrate": {"batches": 4}}, ["calibrate"]),
        ({"finetune": {"epochs": 3}}, ALL[1:]),
        ({"export": {"formats": ["qoperator", "integer"], "io": "integer"}}, ALL[2:4]),
        ({"export": {"formats": ["integer", "qoperator"]}}, []),
        ({"validate": {"limit": 10}}, ["validate"]),
        ({"preprocess": {"mean": [0.5]}}, ["calibrate", "validate"]),
        ({"seed": 1}, ALL[:-1]),
    ],
)
def test_what_changed_in_the_recipe_is_done_again(
    tmp_path: Path, verbs: Verbs, changes: dict[str, Any], again: list[str]
) -> None:
    run_recipe(recipe_in(tmp_path))
    verbs.calls.clear()
    run_recipe(recipe_in(tmp_path, **changes))
    assert verbs.names == again


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("net.onnx", ALL),
        ("data.npz", ALL),
        ("out/calibrated.qdq.onnx", ["calibrate"]),
        ("out/model.integer.onnx", ["export-integer"]),
        ("out/report.json", ["validate"]),
    ],
)
def test_a_file_that_changed_is_made_or_read_again(tmp_path: Path, verbs: Verbs, name: str, again: list[str]) -> None:
    run_recipe(recipe_in(tmp_path))
    verbs.calls.clear()
    (tmp_path / name).write_text("other")
    run_recipe(recipe_in(tmp_path))
    assert verbs.names == again


def test_a_lost_output_is_made_again(tmp_path: Path, verbs: Verbs) -> None:
    run_recipe(recipe_in(tmp_path))
    verbs.calls.clear()
    (tmp_path / "out/model.qoperator.onnx").unlink()
    run_recipe(recipe_in(tmp_path))
    assert verbs.names == ["export-qoperator"]


def test_training_that_was_stopped_goes_on_from_its_checkpoint(tmp_path: Path, verbs: Verbs) -> None:
    checkpoint = tmp_path / "out" / CHECKPOINT_FILE
    verbs.fail_at = "finetune"
    verbs.before_failing = lambda keywords: keywords["checkpoint"].write_text("half")
    with pytest.raises(ModelError):
        run_recipe(recipe_in(tmp_path))
    verbs.fail_at = None
    run_recipe(recipe_in(tmp_path))
    assert [keywords["resume"] for name, keywords in verbs.calls if name == "finetune"] == [False, True]
    assert not checkpoint.exists()


def test_a_checkpoint_of_other_arguments_is_dropped(tmp_path: Path, verbs: Verbs) -> None:
    verbs.fail_at = "finetune"
    verbs.before_failing = lambda keywords: keywords["checkpoint"].write_text("half")
    with pytest.raises(ModelError):
        run_recipe(recipe_in(tmp_path))
    verbs.before_failing = lambda keywords: None
    with pytest.raises(ModelError):
        run_recipe(recipe_in(tmp_path, finetune={"epochs": 3}))
    assert [keywords["resume"] for name, keywords in verbs.calls if name == "finetune"] == [False, False]
    assert not (tmp_path / "out" / CHECKPOINT_FILE).exists()


def test_integers_that_differ_end_in_a_parity_error_each_time(tmp_path: Path, verbs: Verbs) -> None:
    verbs.integers_equal = False
    for _ in range(2):
        with pytest.raises(ParityError, match=r"report\.json: .* differ"):
            run_recipe(recipe_in(tmp_path))
    assert verbs.names == [*ALL, "validate"]
    assert json.loads((tmp_path / "out/report.json").read_text())["ok"] is False


def test_a_pytorch_model_is_imported_first(tmp_path: Path, verbs: Verbs, monkeypatch: pytest.MonkeyPatch) -> None:
    import qpipe.ir.files.save
    import qpipe.ir.files.torch_import

    monkeypatch.setattr(qpipe.ir.files.torch_import, "resolve_model", lambda *arguments: arguments)
    monkeypatch.setattr(qpipe.ir.files.save, "save_model", lambda model, path: path.write_text(str(model)))
    recipe = recipe_in(tmp_path, model={"path": "package.module:factory", "input_shape": [3, 8, 8]})
    report = run_recipe(recipe)
    assert [stage.name for stage in report.stages] == ["import", *ALL]
    assert (tmp_path / "out/float.onnx").read_text() == "('package.module:factory', None, {'': (3, 8, 8)})"
    assert report.rows[0]["name"] == "float.onnx"


def test_an_output_folder_that_cannot_be(tmp_path: Path, verbs: Verbs) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="expected a folder"):
        run_recipe(recipe_in(tmp_path, output=str(tmp_path / "file" / "out")))
    assert verbs.names == []
