"""What was found where data were looked for: one line on stderr for each split, and an object in the JSON."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qpipe.cli.main import main


def x_rays(folder: Path) -> None:
    """Ten classes of one image for each split, grey of 16 bits."""
    for split in ("Training", "Testing"):
        for label in range(10):
            path = folder / split / f"class {label}" / "1.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.full((8, 8), 6000 * label, np.uint16)).save(path)


@pytest.mark.parametrize(
    ("words", "splits"),
    [
        ("calibrate net.onnx -o out.onnx", ["train"]),
        ("finetune net.qdq.onnx -o out.onnx --epochs 1 --batch-size 5", ["train", "test"]),
        ("validate net.onnx net.int8.onnx", ["test"]),
    ],
)
def test_it_is_said_once(here: Path, words: str, splits: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    x_rays(here / "photos")
    assert main([*words.split(), "--data", "photos", "--color", "GRAY", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [line for line in err.splitlines() if line.startswith("data ")] == [
        f"data 'photos', split '{split}' of test, train: 10 samples (PNG, I;16, 8x8); 10 classes: class 0, class 1, "
        "class 2, ..., class 9; more than 8 bits are scaled to 8"
        for split in splits
    ]
    found = json.loads(out)["data"]
    assert [each["split"] for each in found] == splits
    for each in found:
        assert each["classes"] == [f"class {label}" for label in range(10)]
        assert (each["samples"], each["splits"]) == (10, ["test", "train"])


def test_names_that_no_encoding_takes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in range(10):
        folder = os.path.join(os.fsencode(here / "photos"), b"\xff\x1b[31m%d" % label)
        os.makedirs(folder)
        Image.new("L", (8, 8), 20 * label).save(os.fsdecode(os.path.join(folder, b"1\xfe.png")))
    words = "validate net.onnx --data photos --color GRAY --json"
    assert main(words.split()) == 0
    out, err = capsys.readouterr()
    assert "\\udcff\\x1b[31m0, " in err
    assert len(json.loads(out)["data"][0]["classes"]) == 10
