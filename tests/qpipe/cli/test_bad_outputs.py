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


def test_a_picture_does_not_take_the_place_of_the_data(here: Path, refused: Callable[[str], str]) -> None:
    (here / "images.svg").write_bytes(b"pixels")
    found = refused("bench net.onnx --data images.svg --picture images.svg")
    assert found == "images.svg: is the input and the output, expected two files"


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("plain.jpg", "plain.jpg: a picture, expected the name of a .png or .svg file"),
        ("plain", "plain: a picture, expected the name of a .png or .svg file"),
        ("absent/plain.svg", "absent/plain.svg: the folder 'absent' does not exist"),
    ],
)
def test_pictures_that_cannot_be_drawn(picture: str, message: str, refused: Callable[[str], str]) -> None:
    # Said before any work is done, and so before the data turn out to be missing.
    assert refused(f"bench net.onnx --data absent.npz --picture {picture}") == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--resume", "--resume: no checkpoint was named, expected --checkpoint FILE"),
        ("--resume --checkpoint state", "state: nothing to resume, no such file"),
        ("--checkpoint absent/state", "absent/state: the folder 'absent' does not exist"),
        ("--checkpoint out.onnx", "out.onnx: is the output and the checkpoint, expected two files"),
        ("--checkpoint-every 5", "--checkpoint-every: no checkpoint was named, expected --checkpoint FILE"),
        ("--checkpoint-every 0", "--checkpoint-every: 0, expected greater than or equal to 1"),
        ("--schedule step", "milestones: missing, but a step schedule needs the epochs at which it falls"),
        ("--milestones 3,x", "--milestones: 'x', expected a valid number"),
        ("--recipe faq-9bit", "Invalid value for '--recipe': "),
        ("--teacher absent.onnx", "absent.onnx: no such file"),
    ],
)
def test_training_that_cannot_start(words: str, message: str, refused: Callable[[str], str]) -> None:
    assert refused(f"finetune net.qdq.onnx --data digits -o out.onnx --no-evaluate {words}").startswith(message)


@pytest.mark.parametrize("name", ["net.qdq.onnx", "net.onnx", "state"])
def test_a_checkpoint_does_not_take_the_place_of_a_file(name: str, here: Path, refused: Callable[[str], str]) -> None:
    """Neither of the network that is trained, nor of a run that was begun."""
    (here / "state").write_bytes(b"hours of training")
    before = (here / name).read_bytes()
    found = refused(f"finetune net.qdq.onnx --data digits -o out.onnx --no-evaluate --checkpoint {name}")
    assert found == f"{name}: is there already; --resume goes on from it, another name starts anew"
    assert (here / name).read_bytes() == before


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("calibrate net.onnx --data digits", "net.onnx"),
        ("finetune ./net.qdq.onnx --data digits", "net.qdq.onnx"),
        ("finetune net.qdq.onnx --data digits --teacher net.onnx", "net.onnx"),
        ("export net.qdq.onnx", "./net.qdq.onnx"),
        ("report net.qdq.onnx", "net.qdq.onnx"),
        ("calibrate net.onnx --data images.npz", "images.npz"),
        ("finetune net.qdq.onnx --data images.npz", "images.npz"),
        ("export net.qdq.onnx --data images.npz", "images.npz"),
    ],
)
def test_an_output_does_not_take_the_place_of_what_is_read(
    command: str, name: str, here: Path, refused: Callable[[str], str]
) -> None:
    (here / "images.npz").write_bytes(b"said before they are read")
    before = (here / name).read_bytes()
    assert refused(f"{command} -o {name}") == f"{name}: is the input and the output, expected two files"
    assert (here / name).read_bytes() == before


def test_a_checkpoint_that_is_none(here: Path, refused: Callable[[str], str]) -> None:
    (here / "state").write_bytes(b"no checkpoint")
    found = refused("finetune net.qdq.onnx --data digits -o out.onnx --no-evaluate --checkpoint state --resume")
    assert found.startswith("state: not a checkpoint: ")
    assert (here / "state").read_bytes() == b"no checkpoint"


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
        (RECIPE + "[calibrate]\nweight_bits = 9\n", "bad.toml: [calibrate] weight_bits: 9, expected "),
        ("output = ", "bad.toml: "),
    ],
    ids=["key", "table", "value", "syntax"],
)
def test_recipes_with_a_typo(text: str, message: str, refused: Callable[[str], str]) -> None:
    Path("bad.toml").write_text(text)
    assert refused("run bad.toml").startswith(message)
