"""Data that are wrong: one line that names it, exit status 2, and nothing half-written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ON_DATA = "calibrate net.onnx --data {data} -o out.onnx"
FINETUNE = "finetune net.qdq.onnx --data {data} -o out.onnx --batch-size 4 --no-evaluate"
VALIDATE = "validate net.onnx net.int8.onnx --data {data}"


def images(**arrays: np.ndarray) -> None:
    np.savez("bad.npz", **arrays)  # type: ignore[arg-type]


def floats(value: float) -> Callable[[], None]:
    def make() -> None:
        x = np.zeros((4, 8, 8, 1), np.float32)
        x[2, 1, 1, 0] = value
        images(x=x, labels=np.zeros(4, np.int64))

    return make


def pictures(*names: str, size: tuple[int, int] = (8, 8)) -> None:
    for name in names:
        path = Path("bad") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size).save(path)


def unreadable_picture() -> None:
    pictures("a/1.png", "b/2.png")
    Path("bad/b/2.png").write_bytes(b"no image")


def empty_class() -> None:
    pictures("a/1.png")
    Path("bad/b").mkdir()


PIXELS = np.zeros((4, 8, 8, 1), np.uint8)
LABELS = np.zeros(4, np.int64)
DATA: dict[str, tuple[Callable[[], Any], str, str]] = {
    "missing": (lambda: None, "bad.npz", "data 'bad.npz' don't exist: expected a folder"),
    "no npz": (lambda: Path("bad.npz").write_text("hello"), "bad.npz", "'bad.npz' is no .npz file, or a truncated one"),
    "other keys": (lambda: images(pictures=PIXELS), "bad.npz", "data 'bad.npz': expected 'images' (or 'x')"),
    "other channels": (
        lambda: images(images=np.zeros((4, 8, 8, 3), np.uint8), labels=LABELS),
        "bad.npz",
        "data 'bad.npz': inputs have shape [N, 3, 8, 8], the model expects [N, 1, 8, 8]",
    ),
    "other size": (
        lambda: images(images=np.zeros((4, 9, 9, 1), np.uint8), labels=LABELS),
        "bad.npz",
        "data 'bad.npz': inputs have shape [N, 1, 9, 9], the model expects [N, 1, 8, 8]; set the",
    ),
    "NaN": (floats(np.nan), "bad.npz", "bad.npz: 'x': sample 2 has the value nan at [1, 1, 0], expected finite"),
    "infinite": (floats(np.inf), "bad.npz", "bad.npz: 'x': sample 2 has the value inf at [1, 1, 0], expected finite"),
    "pickled": (
        lambda: images(images=np.array([{}], object), labels=LABELS),
        "bad.npz",
        "data 'bad.npz': 'images' can't be read: it holds pickled Python objects, which qpipe never loads",
    ),
    "empty folder": (lambda: Path("bad").mkdir(), "bad", ""),
    "empty class": (empty_class, "bad", "class folder 'bad/b' holds no images"),
    "no image": (unreadable_picture, "bad", ""),
    "no factory": (lambda: None, "no_such_module:make", "data 'no_such_module:make': module 'no_such_module' can't"),
}


@pytest.mark.parametrize("case", DATA)
@pytest.mark.parametrize("words", [ON_DATA, FINETUNE, VALIDATE], ids=lambda words: words.split()[0])
def test_data(case: str, words: str, refused: Callable[[str], str]) -> None:
    make, data, message = DATA[case]
    make()
    found = refused(words.format(data=data) + " --color GRAY" * (data == "bad"))
    assert found.startswith(message)
    assert data in found


@pytest.mark.parametrize("words", [FINETUNE, VALIDATE], ids=lambda words: words.split()[0])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:3], "bad.npz: 3 labels for 4 samples"),
        (LABELS - 1, "bad.npz: labels go from -1 to -1, but output 'logits' [N, 10] has 10 classes"),
        (LABELS + 10, "bad.npz: labels go from 10 to 10, but output 'logits' [N, 10] has 10 classes"),
        (LABELS + 0.5, "bad.npz: fractional labels, from 0.5 to 0.5, fit no output"),
        (LABELS * np.nan, "bad.npz: label 0 is nan, expected finite"),
    ],
    ids=["missing", "below", "beyond", "fractions", "nan"],
)
def test_labels_that_no_class_has(labels: Any, message: str, words: str, refused: Callable[[str], str]) -> None:
    images(images=PIXELS, labels=labels)
    assert refused(words.format(data="bad.npz")).startswith(message)


def test_an_unlabelled_folder_cannot_be_trained_on(refused: Callable[[str], str]) -> None:
    pictures("1.png", "2.png")
    assert "no labels" in refused(FINETUNE.format(data="bad") + " --color GRAY")


def test_a_preprocessing_that_does_not_fit(refused: Callable[[str], str]) -> None:
    words = "calibrate net.onnx --data digits -o out.onnx"
    assert "mean has 3 values" in refused(f"{words} --mean 0.1,0.2,0.3")
    assert "std" in refused(f"{words} --std 0")
