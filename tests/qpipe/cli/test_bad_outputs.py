"""Outputs that cannot be written, recipes with a typo: one line, exit status 2, and nothing half-written."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "words",
    [
        "calibrate net.onnx --data digits --batches 1",
        "finetune net.qdq.onnx --data digits --no-evaluate",
        "export net.qdq.onnx",
    ],
    ids=lambda words: words.split()[0],
)
def test_outputs_that_cannot_be_written(
    words: str, refused: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Said before any work is done, and so before the data turn out to be missing.
    early = words.replace("digits", "absent.npz")
    assert refused(f"{early} -o absent/out.onnx") == "absent/out.onnx: the folder 'absent' does not exist"
    Path("folder").mkdir()
    assert refused(f"{early} -o folder") == "folder: is a folder, expected the name of a file to write"

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert refused(f"{words} -o out.onnx") == "out.onnx: can't be written: No space left on device"


RECIPE = """
output = "out"
[model]
path = "net.onnx"
[data]
path = "digits"
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RECIPE + "[calibrate]\nbatchs = 5\n", "bad.toml: [calibrate] batchs: unknown key, did you mean 'batches'?"),
        (RECIPE.replace("[data]", "[dta]"), "bad.toml: "),
        (RECIPE + "[calibrate]\nweight_bits = 3\n", "bad.toml: [calibrate] weight_bits: 3, expected 4 or 8"),
        ("output = ", "bad.toml: "),
    ],
    ids=["key", "table", "value", "syntax"],
)
def test_recipes_with_a_typo(text: str, message: str, refused: Callable[[str], str]) -> None:
    Path("bad.toml").write_text(text)
    assert refused("run bad.toml").startswith(message)
