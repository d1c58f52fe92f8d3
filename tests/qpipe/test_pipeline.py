"""The order, resumption and outputs of stages, with verbs that only write a file; the demo runs the real ones."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import qpipe
from qpipe.errors import ModelError, OutputError, ParityError
from qpipe.pipeline import CHECKPOINT_FILE, PipelineReport, run_recipe
from qpipe.recipe import Recipe
from qpipe.settings import LayerSettings

ALL = ["calibrate", "finetune", "export-qoperator", "export-integer", "validate"]


class Verbs:
    """Stand-ins for the verbs: each notes its call, and writes a file that depends on its input and arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.fail_at: str | None = None
        self.integers_equal = True
        self.before_failing: Callable[[dict[str, Any]], None] = lambda _: None

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def call(self, name: str, keywords: dict[str, Any]) -> None:
        self.calls.append((name, keywords))
        if self.fail_at == name:
            self.before_failing(keywords)
            raise ModelError(f"{name}: stopped")

    def calibrate(self, model: str, data: str, output: Path, **keywords: Any) -> None:
        self.call("calibrate", keywords)
        output.write_text(f"q({Path(model).read_text()}, {keywords['weight_bits']})")

    def finetune(self, model: Path, data: str, output: Path, **keywords: Any) -> None:
        self.call("finetune", keywords)
        output.write_text(f"f({model.read_text()}, {keywords['epochs']})")

    def export(self, model: Path, output: Path, **keywords: Any) -> None:
        self.call(f"export-{keywords['format']}", keywords)
        output.write_text(f"{keywords['format']}({model.read_text()})")

    def validate(self, models: list[str], data: str, **keywords: Any) -> SimpleNamespace:
        self.call("validate", keywords)
        rows = [{"name": Path(model).name, "content": Path(model).read_text()} for model in models]
        return SimpleNamespace(rows=rows, ok=self.integers_equal)


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> Verbs:
    verbs = Verbs()
    for name in ("calibrate", "finetune", "export", "validate"):
        monkeypatch.setitem(vars(qpipe), name, getattr(verbs, name))
    return verbs


def recipe_in(folder: Path, **changes: Any) -> Recipe:
    """A recipe on a model and data that are plain text files in `folder`."""
    for name in ("net.onnx", "data.npz"):
        if not (folder / name).exists():
            (folder / name).write_text(name)
    values = {
        "output": str(folder / "out"),
        "model": {"path": str(folder / "net.onnx")},
        "data": {"path": str(folder / "data.npz")},
        "finetune": {"epochs": 2},
        "export": {"formats": ["qoperator", "integer"]},
    }
    return Recipe.model_validate(values | changes)


def kept(report: PipelineReport) -> list[str]:
    return [stage.name for stage in report.stages if stage.kept]


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
    assert json.loads((tmp_path / "out/report.json").read_text()) == {"ok": True, "rows": report.rows}


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
    assert (tmp_path / "out/float.onnx").read_text() == "('package.module:factory', None, (3, 8, 8))"
    assert report.rows[0]["name"] == "float.onnx"


OUTPUTS = ["calibrated.qdq.onnx", "finetuned.qdq.onnx", "model.qoperator.onnx", "model.integer.onnx", "report.json"]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("name", [*OUTPUTS, CHECKPOINT_FILE])
@pytest.mark.parametrize("linked", [False, True])
def test_what_no_run_made_is_not_overwritten(
    tmp_path: Path, verbs: Verbs, name: str, linked: bool, restart: bool
) -> None:
    (tmp_path / "out").mkdir()
    file = tmp_path / "precious" if linked else tmp_path / "out" / name
    file.write_text("hours of work")
    if linked:
        (tmp_path / "out" / name).symlink_to(file)
    with pytest.raises(OutputError, match=f"out/{name}: is there already, and no run made it; expected another output"):
        run_recipe(recipe_in(tmp_path), restart=restart)
    assert file.read_text() == "hours of work"
    assert verbs.names == []
    assert os.listdir(tmp_path / "out") == [name]


@pytest.mark.parametrize("what", ["model", "data"])
@pytest.mark.parametrize("name", [*OUTPUTS, CHECKPOINT_FILE, "state.json"])
@pytest.mark.parametrize("how", ["itself", "hard link", "symbolic link"])
def test_an_input_is_not_overwritten_though_a_run_made_it(
    tmp_path: Path, verbs: Verbs, what: str, name: str, how: str
) -> None:
    """Nor deleted, as a checkpoint is."""
    run_recipe(recipe_in(tmp_path))
    verbs.calls.clear()
    given = tmp_path / "out" / name
    if not given.exists():
        given.write_text("data that are called so")
    if how != "itself":
        given = tmp_path / "other"
        if how == "hard link":
            given.hardlink_to(tmp_path / "out" / name)
        else:
            given.symlink_to(tmp_path / "out" / name)
    before = given.read_bytes()
    with pytest.raises(OutputError, match=f"out/{name}: is the input and the output, expected two files"):
        run_recipe(recipe_in(tmp_path, **{what: {"path": str(given)}}), restart=True)
    assert given.read_bytes() == before
    assert verbs.names == []


def test_the_teacher_is_an_input_as_well(tmp_path: Path, verbs: Verbs) -> None:
    run_recipe(recipe_in(tmp_path))
    teacher = str(tmp_path / "out/finetuned.qdq.onnx")
    with pytest.raises(OutputError, match="is the input and the output"):
        run_recipe(recipe_in(tmp_path, finetune={"epochs": 2, "teacher": teacher}))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, verbs: Verbs, make: Callable[[Path], None]) -> None:
    (tmp_path / "out").mkdir()
    make(tmp_path / "out/report.json")
    with pytest.raises(OutputError, match=r"out/report.json: is a (FIFO|folder)"):
        run_recipe(recipe_in(tmp_path))
    assert verbs.names == []


def test_a_foreign_record_is_not_overwritten(tmp_path: Path, verbs: Verbs) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/state.json").write_text('{"level": 3}')
    for restart in (False, True):
        with pytest.raises(OutputError, match="no record of a `qpipe run`"):
            run_recipe(recipe_in(tmp_path), restart=restart)
    assert (tmp_path / "out/state.json").read_text() == '{"level": 3}'
    assert verbs.names == []


def test_one_run_at_a_time_in_a_folder(tmp_path: Path, verbs: Verbs) -> None:
    def second(_: dict[str, Any]) -> None:
        with pytest.raises(OutputError, match=f"out: process {os.getpid()} is at work on it, expected one at a time"):
            run_recipe(recipe_in(tmp_path), restart=True)

    verbs.fail_at, verbs.before_failing = "finetune", second
    with pytest.raises(ModelError, match="finetune: stopped"):
        run_recipe(recipe_in(tmp_path))
    assert sorted(os.listdir(tmp_path / "out")) == ["calibrated.qdq.onnx", "state.json"]
    verbs.fail_at = None
    assert kept(run_recipe(recipe_in(tmp_path))) == ["calibrate"]


@pytest.mark.parametrize("where", [{"output": "a\0b"}, {"model": {"path": "\0"}}, {"data": {"path": "a\0"}}])
def test_a_nul_in_a_recipe_is_an_error_of_one_line(tmp_path: Path, where: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"(path|output): .*x00.* has a NUL, expected none"):
        recipe_in(tmp_path, **where)


def test_an_output_folder_that_cannot_be(tmp_path: Path, verbs: Verbs) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="expected a folder"):
        run_recipe(recipe_in(tmp_path, output=str(tmp_path / "file" / "out")))
    assert verbs.names == []
