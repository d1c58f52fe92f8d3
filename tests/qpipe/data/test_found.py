"""What was found is one line."""

from pathlib import Path

import numpy as np

from qpipe.data import open_data
from qpipe.data.found import Found
from support.images import write_image

IMAGES = np.zeros((6, 4, 5, 3), np.uint8)
LABELS = np.arange(6)


def test_a_folder(tmp_path: Path) -> None:
    for path in ("Train/cat/1.png", "Train/dog/2.png", "Train/dog/3.png", "eval/cat/4.png"):
        write_image(tmp_path / path)
    assert open_data(tmp_path).found.line() == (
        f"data '{tmp_path}', split 'train' of train, val: 3 samples (PNG, RGB, 10x8); 2 classes: cat, dog"
    )
    assert open_data(tmp_path, "test").found.line() == (
        f"data '{tmp_path}', split 'val' of train, val: 1 sample (PNG, RGB, 10x8); 2 classes: cat, dog"
    )


def test_arrays(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, test_images=IMAGES, test_labels=LABELS, train_x=np.zeros((2, 3, 2)), class_names=list("abcdef"))
    assert open_data(path, "test").found.line() == (
        f"data '{path}', split 'test' of train, test: 6 samples (uint8 images, [3, 4, 5]); 6 classes: a, b, c, ..., f"
    )
    assert open_data(path).found.line().endswith(": 2 samples (floats, [3, 2]); no labels")
    assert open_data((IMAGES, LABELS)).found.line() == (
        "data 'given from Python', no splits: 6 samples (uint8 images, [3, 4, 5]); labels 0 to 5"
    )
    assert (
        open_data(iter([IMAGES])).found.line().endswith(": a stream (uint8 images, [3, 4, 5]); labels with the samples")
    )
    assert "split 'test' of train, test: 360 samples" in open_data("digits", "test").found.line()


def test_arrays_that_are_not_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, images=IMAGES, targets=LABELS, train_labels=LABELS)
    assert open_data(path).found.line().endswith("; no labels; not read: 'targets', 'train_labels'")
    np.savez(path, train_images=IMAGES, train_labels=LABELS, test_x=IMAGES / 255, labels=LABELS, a=1, b=2, c=3)
    assert open_data(path).found.line().endswith("; labels 0 to 5; not read: 'labels', 'a', 'b', 1 more")


def test_names_are_one_line_whatever_is_in_them() -> None:
    line = Found("d", (), None, 1, "x", ("a\nb", "\x1b[31mred", "\udcff"), "0 to 2").line()
    assert line.endswith("3 classes: a b, \\x1b[31mred, \\udcff")
