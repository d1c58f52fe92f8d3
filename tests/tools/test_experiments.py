"""The table of an experiment: what is counted, and what an earlier run left."""

import json
from pathlib import Path

import pytest
from experiments import ExperimentRow, run_rows
from results import RESULTS

ROWS = [ExperimentRow("float", is_float=True), ExperimentRow("2/2, 1 epoch"), ExperimentRow("2/2 plain, 1 epoch")]


def tables(folder: Path, counts: dict[str, float], what: str) -> dict[str, dict[str, float]]:
    """The file's tables after one more run, which counted these; as name: top-1."""
    folder.mkdir(exist_ok=True)
    for slug, top1 in counts.items():
        (folder / f"net.{slug}.seed0.count.json").write_text(json.dumps({"top1": top1}))
    run_rows(ROWS, Path("net.onnx"), Path("data"), folder, patterns=None, seeds=1, run=False, name="some", what=what)
    found = json.loads((RESULTS / "some.json").read_text())["tables"]
    return {title: {line["network"]: line["top-1"] for line in lines} for title, lines in found.items()}


def test_what_other_folders_counted_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["first.py"])
    one, two = ("net on CIFAR-10, 1 epoch, top-1 of 10,000 test images in percent",
                "net on CIFAR-10, 2 epochs, top-1 of 10,000 test images in percent")  # fmt: skip
    first = tables(tmp_path / "a", {"float": 91.0, "2-2--1-epoch": 80.0}, "1 epoch, ")
    assert first == {one: {"float": 91.0, "2/2, 1 epoch": 80.0}}
    second = tables(tmp_path / "b", {"float": 91.5, "2-2-plain--1-epoch": 70.0}, "1 epoch, ")
    assert second == {one: {"float": 91.5, "2/2, 1 epoch": 80.0, "2/2 plain, 1 epoch": 70.0}}
    monkeypatch.setattr("sys.argv", ["some.py", "--epochs", "2"])
    third = tables(tmp_path / "c", {"float": 92.0}, "2 epochs, ")
    assert third == {**second, two: {"float": 92.0}}
    content = json.loads((RESULTS / "some.json").read_text())
    assert content["command"] == "python some.py --epochs 2"
    assert {title: origin["command"] for title, origin in content["earlier"].items()} == {one: "python first.py"}
    assert content["earlier"][one].keys() == {"cpu", "command", "versions"}


def test_nothing_is_counted_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_rows(ROWS, Path("net.onnx"), Path("data"), tmp_path, patterns=None, seeds=1, run=False, name="some")
    assert capsys.readouterr().out.startswith("nothing is counted yet: net on CIFAR-10")
    assert not RESULTS.exists()
