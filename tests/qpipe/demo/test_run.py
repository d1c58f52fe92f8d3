import json
from pathlib import Path

import pytest

from qpipe.cli.main import main
from qpipe.demo import run as demo
from qpipe.demo.network import PREPROCESS, DigitsResNet
from qpipe.demo.run import demo_recipe, run_demo
from qpipe.errors import OutputError
from qpipe.ir.files.load import load_model
from qpipe.pipeline import PipelineReport, Stage, stages_of


def test_the_recipe_has_every_stage_and_format(tmp_path: Path) -> None:
    recipe = demo_recipe(tmp_path)
    names = [stage.name for stage in stages_of(recipe, tmp_path)]
    assert names == ["calibrate", "finetune", "export-qoperator", "export-integer", "export-qdq", "validate"]
    assert PREPROCESS.merge(recipe.preprocess.overrides() or {}) == PREPROCESS
    assert recipe.data.path == "digits"


def test_training_comes_first_and_writes_a_network_with_batch_normalization(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[Stage] = []
    monkeypatch.setattr(demo, "stages_of", lambda recipe, folder: [])
    monkeypatch.setattr("qpipe.demo.network.train_network", lambda epochs, seed: DigitsResNet().eval())

    def finish(given: list[Stage], folder: Path, *, restart: bool) -> PipelineReport:
        stages.extend(given)
        return PipelineReport(str(folder), (), [])

    monkeypatch.setattr(demo, "finish", finish)
    assert run_demo(tmp_path / "demo").output == str(tmp_path / "demo")
    (train,) = stages
    train.run(False)
    model = load_model(tmp_path / "demo" / "float.onnx")
    assert sum(node.op_type == "BatchNormalization" for node in model.graph) == 9


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="expected a folder"):
        run_demo(tmp_path / "file")


@pytest.mark.slow
def test_the_whole_demo_and_that_a_rerun_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    assert main(["demo", "-o", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    formats = ("qoperator", "integer", "qdq")
    networks = ["float.onnx", "calibrated.qdq.onnx", "finetuned.qdq.onnx", *(f"model.{name}.onnx" for name in formats)]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*networks, "report.json", "state.json"])
    rows = {Path(row["name"]).name: row for row in report["rows"]}
    assert list(rows) == networks
    assert all(row["top1"] > 0.97 for row in rows.values())
    shipped = ["finetuned.qdq.onnx", *networks[3:]]
    assert all(rows[name]["integers_equal"] is True and rows[name]["certificate"] == "holds" for name in shipped)
    assert len({rows[name]["top1"] for name in shipped}) == 1
    assert json.loads((folder / "report.json").read_text())["ok"] is True
    assert main(["demo", "-o", str(folder), "--json"]) == 0
    assert all(stage["kept"] for stage in json.loads(capsys.readouterr().out)["stages"])
