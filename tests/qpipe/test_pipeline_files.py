"""What a run may overwrite: its own outputs. Not its inputs, nothing that it did not make, and one run at a time."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qpipe.errors import ModelError, OutputError
from qpipe.pipeline import CHECKPOINT_FILE, run_recipe
from support.pipeline import Verbs, kept, recipe_in

OUTPUTS = ["calibrated.qdq.onnx", "finetuned.qdq.onnx", "model.qoperator.onnx", "model.integer.onnx", "report.json"]


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> Verbs:
    return Verbs.in_place(monkeypatch)


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
