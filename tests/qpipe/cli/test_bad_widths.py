"""Widths and layers that there are not: one line that says which, exit status 2, and nothing written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from qpipe.cli.main import main


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--layer convo:weight_bits=4", "layer 'convo': matches no layer, expected a pattern of names such as 'conv"),
        (
            "--layer conv1:weight_bits=9",
            "--layer 'conv1:weight_bits=9': weight_bits: 9, expected 2, 3, 4, 5, 6, 7 or 8",
        ),
        ("--layer conv1:activation_bits=x", "activation_bits: 'x', expected 2, 3, 4, 5, 6, 7 or 8"),
        ("--layer add:weight_clip=4", "layer 'add': no layer that it matches has weights, such as 'add'"),
        ("--layer conv1", "--layer: 'conv1', expected MATCH:KEY=VALUE,..."),
        ("--weight-bits 9", "'--weight-bits'"),
        ("--activation-bits 1", "'--activation-bits'"),
        ("--fit-weights --no-rescale-channels", "fit_weights: true, expected it with rescale_channels"),
        ("--ranges fixed --activation-rounding nearest", "activation_rounding: 'nearest', expected 'ceil' with fixed"),
    ],
)
def test_one_line(words: str, expected: str, refused: Callable[[str], str]) -> None:
    assert expected in refused(f"calibrate net.onnx --data digits --batches 1 -o out.onnx {words}")


def test_a_recipe_is_named_where_a_stage_refuses_its_value(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = "output = 'run'\n[model]\npath = 'net.onnx'\n[data]\npath = 'digits'\n[[layer]]\n"
    (here / "recipe.toml").write_text(recipe + 'match = "x\\n"\nweight_bits = 4\n')
    assert main(["run", "recipe.toml"]) == 2
    assert "qpipe: error: recipe.toml: layer 'x\\n': matches no layer" in capsys.readouterr().err
