"""Which folders are splits, and which trees can be read in two ways."""

from pathlib import Path

import pytest

from qpipe.data import open_data
from qpipe.data.split_folders import split_of
from qpipe.errors import DataError
from support.images import write_image


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "train") for name in ("train", "Train", "TRAINING", "train_set", "trainset", "trainval", "train2017")),
        *(
            (name, "val")
            for name in ("val", "Valid", "validation", "dev", "Eval", "evaluation", "val-images", "valset")
        ),
        *((name, "test") for name in ("test", "Test", "testing", "test data", "test_set", "test2017")),
        *(
            (name, None)
            for name in ("trains", "trainer", "devil", "tests", "t", "", "protest", "evaluate", "testament")
        ),
    ],
)
def test_the_usual_names_without_regard_to_case(name: str, split: str | None) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "Test"), ("training", "testing"), ("train_set", "test_set"), ("TRAIN", "eval")]
)
def test_splits_by_other_names_are_no_classes(tmp_path: Path, train: str, test: str) -> None:
    for path in (f"{train}/cat/1.png", f"{train}/dog/2.png", f"{test}/cat/3.png"):
        write_image(tmp_path / path)
    for split, labels in (("train", [0, 1]), ("test", [0])):
        source = open_data(tmp_path, split)
        assert source.class_names == ("cat", "dog")
        assert source.labels.tolist() == labels


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            ["train/cat/1.png", "val/cat/1.png", "extra/cat/1.png"],
            "'train' and 'val' are splits, 'extra' is none; expected splits alone, or class folders alone",
        ),
        (["train/1.png", "test/1.png", "bus/1.png"], "'test' and 'train' are splits, 'bus' is none"),
        (["train/cat/1.png", "bus/1.png"], "'train' is a split, 'bus' is none"),
        (["train/1.png", "bus/deep/1.png"], "'train' is a split, 'bus' is none"),
        (["train/cat/1.png", "Training/cat/1.png"], "'Training' and 'train' both mean 'train', expected one of them"),
        (["val/cat/1.png", "train/cat/1.png", "dev/cat/1.png"], "'dev' and 'val' both mean 'val', expected one"),
        (
            ["a/cat/1.png", "a/dog/1.png", "b/cat/1.png"],
            "class folder '{}/a' holds no images of its own, but the folders",
        ),
        (["data/train/cat/1.png", "data/test/cat/1.png"], "class folder '{}/data' holds no images of its own"),
        (["cat/1.png", "1.png"], "folder '{}' holds folders and, beside them, 1 images ('1.png'): expected images in"),
        (["train/cat/1.png", "1.png"], "folder '{}' holds folders and, beside them, 1 images"),
        (["train/cat/1.png", "train/1.png"], "folder '{}/train' holds folders and, beside them, 1 images"),
        (["train/Cat/1.png", "test/cat/1.png"], "class folders 'Cat' and 'cat' differ in upper and lower case only"),
        (
            ["train/cat/1.png", "train/dog/1.png", "test/images/1.png"],
            "/test' has the class folders 'images', the other splits have 'cat', 'dog': expected the same classes",
        ),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(tmp_path: Path, paths: list[str], message: str) -> None:
    for path in paths:
        write_image(tmp_path / path)
    with pytest.raises(DataError) as caught:
        open_data(tmp_path)
    assert message.format(tmp_path) in str(caught.value)
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    "paths", [["cat/images/1.png", "dog/images/2.png"], ["cat/1.png", "cat/a/2.png", "cat/b/3.png"]]
)
def test_folders_within_a_class_that_are_no_classes(tmp_path: Path, paths: list[str]) -> None:
    for path in paths:
        write_image(tmp_path / path)
    assert len(open_data(tmp_path)) == len(paths)
