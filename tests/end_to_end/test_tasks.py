"""A network of each task is trained by the command line and by Python, and gets better at what it is for."""

import json
from pathlib import Path

import numpy as np
import pytest

import qpipe
from qpipe.cli.main import main
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import get_object
from support.zoo.tasks import TOYS, Toy

TRAINING = {"epochs": 6, "lr": 0.05, "batch_size": 16, "flip": False, "crop_padding": 0}


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
def test_a_network_gets_better_at_its_task(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = toy.write(tmp_path)
    qdq, tuned, shipped = (str(tmp_path / name) for name in ("net.qdq.onnx", "tuned.qdq.onnx", "net.int8.onnx"))
    flags = ["--epochs", "6", "--lr", "0.05", "--batch-size", "16", "--no-flip", "--crop-padding", "0"]
    assert main(["calibrate", str(model), "--data", str(data), "-o", qdq]) == 0
    assert main(["finetune", qdq, "--data", str(data), "-o", tuned, *flags]) == 0
    assert main(["export", tuned, "--data", str(data), "-o", shipped]) == 0
    assert toy.said in capsys.readouterr().err
    record = get_object(load_model(tuned), "training")
    before, after = record["accuracy_before"], record["accuracy_after"]
    assert after < 0.7 * before if toy.metric == "mse" else after > before + 0.1

    assert main(["validate", qdq, tuned, shipped, "--data", str(data), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row[toy.metric] for row in report["rows"]] == [before, after, after]
    assert report["rows"][2]["integers_equal"]

    again = qpipe.finetune(qdq, toy.data(), **TRAINING)
    assert get_object(again, "training")["epochs"] == record["epochs"]


def test_a_loss_and_a_metric_of_ones_own(tmp_path: Path) -> None:
    toy = TOYS[0]
    model, _ = toy.write(tmp_path)
    qdq = qpipe.calibrate(model, toy.data())

    def hubers(outputs, labels):
        return (outputs[:, 0] - labels).abs().mean()

    def mean_error(outputs: np.ndarray, labels: np.ndarray) -> float:
        return float(np.abs(outputs[:, 0] - labels).mean())

    tuned = qpipe.finetune(qdq, toy.data(), **TRAINING, loss=hubers, metric=mean_error)
    record = get_object(tuned, "training")
    assert record["task"]["said"] == f"output '{record['task']['output']}', the loss 'hubers', mean_error: as asked"
    assert record["accuracy_after"] < 0.7 * record["accuracy_before"]
    (row,) = qpipe.validate([tuned], toy.data(), metric=mean_error, loss=hubers).rows
    assert row.metrics == {"mean_error": record["accuracy_after"]}


def test_a_teacher_needs_no_labels(tmp_path: Path) -> None:
    """It tells of itself: a network of 3-bit activations comes nearer to its floats."""
    toy = TOYS[4]
    model, _ = toy.write(tmp_path)
    images = toy.data()["images"]
    qdq = qpipe.calibrate(model, images, activation_bits=3)
    tuned = qpipe.finetune(qdq, images, **TRAINING, teacher="float")
    record = get_object(tuned, "training")
    assert "the teacher's answers alone train, by cross entropy" in record["task"]["said"]
    losses = [epoch["loss"] for epoch in record["epochs"]]
    assert losses[-1] < losses[0]
    assert record["accuracy_after"] is None
