"""The table of an experiment: what is counted, and what an earlier run left."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from experiments import Experiment, ExperimentRow, run_rows
from results import RESULTS

from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import CALIBRATION, get_object, get_provenance
from support.networks import Network

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


def test_a_row_of_fewer_bits_begins_with_what_one_of_more_has_trained(tmp_path: Path) -> None:
    """And one of as many trains on in the same file."""
    rng, net = np.random.default_rng(0), Network(3, 8, 8)
    x = net.op("Relu", net.norm(net.conv("x", 3, 8), 8))
    onnx.save(net.proto(net.head(net.op("Relu", net.norm(net.conv(x, 8, 8), 8)), 8, 4)), tmp_path / "net.onnx")
    images, labels = rng.integers(0, 256, (32, 8, 8, 3), np.uint8), np.arange(32) % 4
    arrays = {
        f"{split}_{what}": x for split in ("train", "test") for what, x in (("images", images), ("labels", labels))
    }
    np.savez(tmp_path / "data.npz", **arrays)
    told = {"epochs": 1, "batch_size": 16, "lr": 0.05, "evaluate": False}
    rows = [
        ExperimentRow("8", {"weight_bits": 8}, told),
        ExperimentRow("more", {"weight_bits": 8}, told, after="8"),
        ExperimentRow("4", {"weight_bits": 4}, told, after="8"),
    ]
    of = {row.name: Experiment(row, rows, 0, tmp_path / "net.onnx", tmp_path / "data.npz", tmp_path) for row in rows}
    eight = of["8"]._train(of["8"]._start())
    assert of["more"]._start() == eight
    four = of["4"]._start()
    record = get_object(load_model(four), CALIBRATION)
    assert record is not None
    assert record["weight_bits"] == 4
    trained = [[entry.name for entry in get_provenance(load_model(path))].count("finetune") for path in (eight, four)]
    assert trained == [1, 1]
