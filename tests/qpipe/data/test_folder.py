import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qpipe.data import Preprocess, open_data, reading
from qpipe.errors import DataError
from support.images import write_image


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for number, path in enumerate(["dog/b.png", "dog/a.png", "cat/deep/c.png", "cat/d.PNG"]):
        write_image(tmp_path / path, value=20 * number)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "cat" / ".hidden.png").write_text("no image")
    (tmp_path / ".cache").mkdir()
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_class_folders(tree: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_WORKERS", workers)
    source = open_data(tree, "train")
    assert source.class_names == ("cat", "dog")
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert source.image_shape == (3, 8, 10)
    assert source.split_note == f"data '{tree}' have no splits: all samples are used as 'train'"
    batches = list(source.batches(3))
    assert [len(batch) for batch in batches] == [3, 1]
    pixels = np.concatenate([batch.pixels for batch in batches])
    assert pixels[:, 0, 0, 0].tolist() == [60, 40, 20, 0]  # d.PNG, deep/c.png, a.png, b.png: sorted by path
    assert pixels[0, 3, 4].tolist() == [64, 3, 0]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_splits_share_one_numbering(tmp_path: Path, split: str) -> None:
    for path in ("train/cat/1.png", "train/dog/2.png", "train/eel/3.png", "validation/dog/4.png", "test/eel/5.png"):
        write_image(tmp_path / path)
    source = open_data(tmp_path, split)
    assert source.class_names == ("cat", "dog", "eel")
    assert source.labels.tolist() == {"train": [0, 1, 2], "val": [1], "test": [2]}[split]
    assert source.split_note is None


def test_missing_split(tmp_path: Path) -> None:
    write_image(tmp_path / "train/cat/1.png")
    with pytest.raises(DataError, match="have no split 'test', found train"):
        open_data(tmp_path, "test")
    write_image(tmp_path / "val/cat/1.png")
    assert open_data(tmp_path, "test").split_note == f"data '{tmp_path}' have no split 'test': 'val' is used"


def test_a_class_named_train_is_a_class(tmp_path: Path) -> None:
    write_image(tmp_path / "train/1.png")
    write_image(tmp_path / "bus/2.png")
    assert open_data(tmp_path).class_names == ("bus", "train")


def test_images_without_class_folders_are_unlabelled(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png")
    source = open_data(tmp_path)
    assert source.labels is None
    assert source.class_names is None
    assert next(source.batches(1)).labels is None


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_any_mode_becomes_rgb_or_grey(tmp_path: Path, mode: str) -> None:
    name = "x.tif" if mode == "CMYK" else "x.png"
    write_image(tmp_path / "c" / name, mode=mode)
    with Image.open(tmp_path / "c" / name) as image:
        rgb, grey = np.asarray(image.convert("RGB")), np.asarray(image.convert("L"))
    np.testing.assert_array_equal(next(open_data(tmp_path).batches(1)).pixels[0], rgb)
    bgr = next(open_data(tmp_path, preprocess=Preprocess(color="BGR")).batches(1))
    np.testing.assert_array_equal(bgr.pixels[0], rgb[..., ::-1])
    dark = open_data(tmp_path, preprocess=Preprocess(color="GRAY"))
    assert dark.image_shape == (1, 8, 10)
    np.testing.assert_array_equal(next(dark.batches(1)).pixels[0, ..., 0], grey)


def test_palette_with_transparency_gives_no_warning(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    image = Image.new("P", (4, 4))
    image.putpalette([10, 20, 30] * 256)
    image.save(tmp_path / "c" / "x.png", transparency=bytes(256))
    assert next(open_data(tmp_path).batches(1)).pixels[0, 0, 0].tolist() == [10, 20, 30]


def test_resize_and_crop_bring_all_sizes_together(tmp_path: Path) -> None:
    write_image(tmp_path / "c" / "a.png", size=(30, 20))
    write_image(tmp_path / "c" / "b.png", size=(20, 40))
    source = open_data(tmp_path, preprocess=Preprocess(resize=10, crop=8, layout="NHWC"))
    assert source.image_shape == (8, 8, 3)
    (batch,) = source.batches(2)
    with Image.open(tmp_path / "c" / "a.png") as image:
        expected = image.resize((15, 10), Image.Resampling.BILINEAR).crop((4, 1, 12, 9))
    np.testing.assert_array_equal(batch.pixels[0], np.asarray(expected))
    assert batch.inputs.shape == (2, 8, 8, 3)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_several_sizes_are_refused(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_WORKERS", workers)
    write_image(tmp_path / "c" / "a.png", size=(30, 20))
    write_image(tmp_path / "c" / "b.png", size=(20, 40))
    with pytest.raises(DataError) as caught:
        list(open_data(tmp_path).batches(2))
    first, second = tmp_path / "c" / "a.png", tmp_path / "c" / "b.png"
    assert str(caught.value) == (
        f"image '{second}' is 20x40, image '{first}' 30x20: expected images of one size; set resize and crop"
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_unreadable_image_is_named(tree: Path, workers: int, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_WORKERS", workers)
    victim = tree / "dog" / "b.png"
    content = victim.read_bytes()
    victim.write_bytes({"truncated": content[: len(content) // 2], "garbage": b"\x89PNG" * 30, "empty": b""}[damage])
    with pytest.raises(DataError) as caught:
        list(open_data(tree).batches(2))
    assert str(caught.value).startswith(f"image '{victim}' can't be read: ")
    assert "\n" not in str(caught.value)


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^folder '{tmp_path}' holds no images, expected class folders"):
        open_data(tmp_path)
    write_image(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=rf"^class folder '{tmp_path / 'dog'}' holds no images"):
        open_data(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every folder")
def test_folder_that_may_not_be_read(tmp_path: Path) -> None:
    write_image(tmp_path / "cat" / "a.png")
    tmp_path.chmod(0)
    try:
        with pytest.raises(DataError, match="can't be read: Permission denied"):
            open_data(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_crop_larger_than_the_images(tree: Path) -> None:
    with pytest.raises(DataError, match=r"d\.PNG': image is 10x8, smaller than crop 9; set resize as well$"):
        open_data(tree, preprocess=Preprocess(crop=9))


def test_mean_of_another_number_of_channels(tree: Path) -> None:
    with pytest.raises(DataError, match="images have 1 channels, mean has 3 values"):
        open_data(tree, preprocess=Preprocess(color="GRAY", mean=(0.1, 0.2, 0.3)))
