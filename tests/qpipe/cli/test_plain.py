"""From a float network with skips to a plain integer one, and what is refused on the way."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import qpipe
from qpipe.cli.finetune import phases_line
from qpipe.cli.main import main

RUN = "--data digits --epochs 1 --batch-size 64 --no-flip"


@pytest.mark.filterwarnings("default:the float network's top-1")
def test_one_command_makes_a_plain_network(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a network that was never trained: that it guesses is told."""
    assert main(f"finetune net.onnx {RUN} --plain --method ag -o plain.qdq.onnx".split()) == 0
    out, err = capsys.readouterr()
    assert "qpipe: warning: the float network's top-1 is " in err
    assert out.splitlines()[0] == "without the skips of 1 blocks of 1: add"
    assert out.splitlines()[1].startswith("trained by the recipe ")
    line = out.splitlines()[2]
    for part in ("float ", "skips stripped ", "trained "):
        assert part in line
    assert main(["export", "plain.qdq.onnx", "--plain", "-o", "plain.int8.onnx"]) == 0
    assert qpipe.inspect(here / "plain.int8.onnx").residual_blocks == ()


def test_json_has_the_phases(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"finetune net.qdq.onnx {RUN} --plain --recipe ag -o plain.qdq.onnx --json".split()) == 0
    phases = json.loads(capsys.readouterr().out)["metadata"]["training"]["phases"]
    assert [phase["phase"] for phase in phases] == ["quantized, with its skips", "skips stripped", "trained"]
    assert all(0 <= phase["accuracy"] <= 1 for phase in phases)


def test_what_was_not_counted_is_not_told() -> None:
    assert phases_line({"phases": [{"phase": "trained", "accuracy": None}]}) == "the accuracy was not counted"
    assert phases_line(None) == "the accuracy was not counted"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("finetune net.onnx", "net.onnx: not a quantized model"),
        ("finetune net.qdq.onnx --plain --blocks layer9.*", "blocks 'layer9.*': matches no residual"),
        ("finetune net.qdq.onnx --fade 0.5", "fade: 0.5, but no skips are stripped"),
        ("finetune net.qdq.onnx --plain --fade 1.5", "--fade: 1.5, expected"),
        ("finetune net.qdq.onnx --method ag --auxiliary-weight 0", "--auxiliary-weight: 0.0, expected"),
        ("finetune net.qdq.onnx --ssp --ssp-ratio 2", "--ssp-ratio: 2.0, expected"),
        ("finetune net.qdq.onnx --ssp --ssp-end 0", "--ssp-end: 0.0, expected"),
        ("finetune net.qdq.onnx --method ag --batch-norm running", "batch_norm: 'running', expected"),
        ("finetune net.qdq.onnx --layerwise", "layerwise: True, but without effect, expected it together with method"),
        ("finetune net.qdq.onnx --plain --ssp-ratio 0.4", "ssp_ratio: 0.4, but without effect, expected it together"),
        ("finetune net.qdq.onnx --temperature 2", "temperature: 2.0, but without effect, expected it together with a"),
        ("finetune net.qdq.onnx --recipe ag --momentum 0.5", "momentum: 0.5, but without effect"),
        ("finetune net.qdq.onnx --blocks layer1.*", "blocks: 'layer1.*', but without effect"),
        ("finetune net.qdq.onnx --teacher net.int8.onnx", "teacher 'net.int8.onnx': is qoperator, expected a float"),
        ("finetune net.qdq.onnx --hold-out 0.0001", "hold_out: 0.0001 of "),
        ("finetune net.qdq.onnx --ema 1", "--ema: 1.0, expected"),
        ("finetune net.qdq.onnx --train-scales -1", "--train-scales: -1.0, expected"),
        ("finetune net.qdq.onnx --train-scales 1 --freeze-scales 1", "--freeze-scales: 1.0, expected"),
        ("finetune net.qdq.onnx --freeze-scales 0.4", "freeze_scales: 0.4, but without effect, expected it together"),
        ("finetune net.onnx --arithmetic float --train-scales 1", "train_scales: 1.0, but the network is float"),
        ("finetune net.qdq.onnx --dampen-oscillations -1", "--dampen-oscillations: -1.0, expected"),
        ("finetune net.qdq.onnx --freeze-oscillations 1", "--freeze-oscillations: 1.0, expected"),
        ("finetune net.qdq.onnx --freeze-oscillations 0.1", "freeze_oscillations: no layer has fixed-point weights of"),
        ("finetune net.qdq.onnx --estimate-statistics --batch-norm running", "batch_norm: 'running', expected 'batch'"),
        ("finetune net.qdq.onnx --warmup 1", "warmup: 1, expected less than the run's epochs, 1"),
        ("finetune net.qdq.onnx --schedule cosine --milestones 1", "milestones: given, expected none"),
        ("calibrate net.onnx --quantizer dorefa", "weight_bits: 8, expected 2 to 7"),
    ],
)  # fmt: skip
def test_refusals(refused: Callable[[str], str], words: str, told: str) -> None:
    assert told in refused(f"{words} --data digits -o out.onnx")


def test_skips_cannot_be_taken_out_by_an_export(refused: Callable[[str], str]) -> None:
    assert "net.qdq.onnx: was trained with the skips of 'add'" in refused("export net.qdq.onnx --plain -o out.onnx")
