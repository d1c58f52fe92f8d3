"""Low-bit training by the command line, from a float file to an exported one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qpipe.cli.main import main

MLS = "finetune net.onnx --data digits --arithmetic mls --element 2,1 --group nc --group-format 8,1 -o low.onnx"
SHORT = " --epochs 1 --no-flip --mean 0.3 --std 0.38"


def test_a_float_file_goes_in_and_on_to_an_export(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main((MLS + SHORT).split()) == 0
    recipe, accuracy, wrote = capsys.readouterr().out.splitlines()
    assert recipe == "trained by the recipe mls-cifar, 1 epoch"
    assert accuracy.startswith("top-1: before training ")
    assert ", trained, low-bit forward " in accuracy
    assert wrote == "wrote low.onnx"
    assert main(["calibrate", "low.onnx", "--data", "digits", "-o", "low.qdq.onnx"]) == 0
    assert "trained on low-bit weights ⟨2, 1⟩, nc ⟨8, 1⟩, rounded anew" in capsys.readouterr().err
    assert main(["export", "low.qdq.onnx", "-o", "low.int8.onnx"]) == 0


def test_json_has_both_accuracies(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main((MLS + SHORT + " --json").split()) == 0
    training = json.loads(capsys.readouterr().out)["metadata"]["training"]
    assert 0 < training["accuracy_low_bit"] <= 1
    assert 0 < training["accuracy_after"] <= 1
    assert training["settings"]["element"] == [2, 1]
    assert training["settings"]["group_format"] == [8, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--arithmetic mls --element 2", "element: '2', expected bits of exponent and mantissa, as in 2,1"),
        ("--arithmetic mls --element 2,x", "element: '2,x', expected bits of exponent and mantissa, as in 2,1"),
        ("--arithmetic mls --element 6,1", "element: ⟨6, 1⟩, expected 0 to 5 bits of exponent and 0 to 8 of mantissa"),
        ("--arithmetic mls --group-format 9,0", "group_format: ⟨9, 0⟩, expected 1 to 8 bits of exponent"),
        ("--arithmetic mls --precision bf16", "precision: 'bf16', expected 'fp32' with the arithmetic 'mls'"),
        (
            "--arithmetic float --element 2,1",
            "element: (2, 1), but without effect, expected it together with the arith",
        ),
        ("--arithmetic float --no-low-bit-ends --ssp", "ssp: True, but the network is float, expected none, or a QDQ"),
        ("--arithmetic mls --resume", "--resume: no checkpoint was named, expected --checkpoint FILE"),
    ],
)
def test_what_is_wrong_is_one_line(refused: Callable[[str], str], words: str, message: str) -> None:
    assert message in refused(f"finetune net.onnx --data digits {words} -o out.onnx")


def test_a_run_that_diverges_ends_with_one_line(refused: Callable[[str], str]) -> None:
    line = refused(f"{MLS} {SHORT} --lr 1e30")
    assert line.startswith("epoch 1, update ")
    assert line.endswith("; a lower --lr may help")
