"""The rows of the reproduction are what the verb takes, and their names tell them apart."""

import inspect
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from experiments import DIVERGED, Experiment, ExperimentRow, run_rows
from mls_rows import ROWS, forget
from results import PREPROCESS, RESULTS, Results

import qpipe
from qpipe.settings import FinetuneSettings
from qpipe.settings.recipes import resolve
from qpipe.train.keeper import DivergedError
from support.zoo.digits import digits_model


def test_names_differ_also_as_file_names() -> None:
    assert len({"".join(c if c.isalnum() else "-" for c in row.name.lower()).strip("-") for row in ROWS}) == len(ROWS)


def test_rows_are_arguments_of_the_verb() -> None:
    for row in ROWS:
        assert row.finetune is not None
        inspect.signature(qpipe.finetune).bind("model", "data", **row.finetune)
        run = resolve(FinetuneSettings(**row.finetune))
        assert (run.epochs, run.milestones) == (row.finetune["epochs"], (run.epochs / 2, run.epochs * 3 / 4))


def test_the_grid_is_the_papers() -> None:
    """36 cells in Table 3: four groupings and Mg 1 with Ex 0, and Ex 1 and 2 without and with groups, of four Mx."""
    grid = [row for row in ROWS if "2 epochs" in row.name and "⟨" in row.name and "overflow" not in row.name]
    assert len(grid) == 36
    assert sum(row.leads for row in grid) == 2
    twins = {row.name: row.same_as for row in grid if row.same_as is not None}
    assert twins["⟨1,2⟩ nc Mg 1, scratch, 2 epochs"] == "⟨0,3⟩ nc Mg 1, scratch, 2 epochs"
    assert len(twins) == 5, "⟨1,4⟩ has no twin, and one is run to show it"
    assert set(twins.values()) <= {row.name for row in grid}


def test_a_twin_has_the_counts_of_the_row_that_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(digits_model(), tmp_path / "net.onnx")
    first = ExperimentRow("float", is_float=True)
    twin = ExperimentRow("its twin", finetune={"arithmetic": "mls"}, same_as="float")
    with (tmp_path / "net.float.seed0.count.json").open("w") as stream:
        json.dump({"top1": 12.5, "low_bit": 25.0}, stream)
    run_rows(
        [first, twin], tmp_path / "net.onnx", tmp_path / "none.npz", tmp_path, patterns=["its*"], seeds=1, run=True,
        name="some",
    )  # fmt: skip
    found = next(iter(Results.load("some").tables.values()))
    assert [(line["network"], line["top-1"], line.get("counted as")) for line in found] == [
        ("float", 12.5, None), ("its twin", 12.5, "float")
    ]  # fmt: skip


def test_scratch_forgets(tmp_path: Path) -> None:
    given, again = tmp_path / "net.onnx", tmp_path / "again.onnx"
    onnx.save(digits_model(), given)
    forget(given, tmp_path / "new.onnx")
    forget(given, again)
    assert (tmp_path / "new.onnx").read_bytes() == again.read_bytes(), "every row begins with the same weights"
    (before, *_), (after, *_) = (qpipe.validate([path], "digits").rows for path in (given, again))
    assert before.top1 != after.top1


def test_a_run_that_diverges_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(digits_model(), tmp_path / "net.onnx")
    data = {"x_train": np.zeros((32, 1, 8, 8), np.float32), "y_train": np.arange(32) % 10}
    np.savez(tmp_path / "data.npz", **data, x_test=data["x_train"], y_test=data["y_train"])

    def diverges(*_: object, preprocess: object, **__: object) -> None:
        assert preprocess == PREPROCESS, "it is counted with the same"
        raise DivergedError("diverged in epoch 1")

    monkeypatch.setattr(qpipe, "finetune", diverges)
    row = ExperimentRow("⟨0,1⟩ none, scratch", finetune={"arithmetic": "mls"})
    assert Experiment(row, [row], 0, tmp_path / "net.onnx", tmp_path / "data.npz", tmp_path).count().top1 is None
    run_rows(
        [row], tmp_path / "net.onnx", tmp_path / "data.npz", tmp_path, patterns=None, seeds=1, run=False, name="some"
    )
    assert RESULTS.exists()
    (line,) = next(iter(Results.load("some").tables.values()))
    assert (line["top-1"], line["seeds"]) == (DIVERGED, f"0: {DIVERGED}")
