import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qpipe.data import Augment, Preprocess, check_fits, open_data
from qpipe.data.inputs import Input
from qpipe.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.uint8)


def _save(folder: Path, **arrays: Any) -> Path:
    path = folder / "data.npz"
    np.savez_compressed(path, **arrays)
    return path


def test_undivided_file(tmp_path: Path) -> None:
    path = _save(tmp_path, images=IMAGES, labels=LABELS, class_names=["a", "b", "c"])
    for split in ("train", "val", "test"):
        source = open_data(str(path), split)
        assert len(source) == 6
        assert source.class_names == ("a", "b", "c")
        assert source.labels.dtype == np.int64
        assert source.split_note == f"data '{path}' have no splits: all samples are used as '{split}'"
    np.testing.assert_array_equal(next(source.batches(6)).pixels, IMAGES)


def test_divided_file(tmp_path: Path) -> None:
    path = _save(
        tmp_path, train_images=IMAGES[:4], train_labels=LABELS[:4], test_images=IMAGES[4:], test_labels=LABELS[4:]
    )
    assert (len(open_data(path, "train")), len(open_data(path, "test"))) == (4, 2)
    assert open_data(path, "train").split_note is None
    assert open_data(path, "val").split_note == f"data '{path}' have no split 'val': 'test' is used"


@pytest.mark.parametrize("first", ["{split}_{kind}", "{kind}_{split}"])
def test_the_names_of_other_tools(tmp_path: Path, first: str) -> None:
    """As Keras has them: `x_train`, `y_train`; `y` is labels unless there are `labels`."""
    keys = {(kind, split): first.format(kind=kind, split=split) for kind in "xy" for split in ("train", "test")}
    arrays = {keys["x", "train"]: IMAGES[:4], keys["y", "train"]: LABELS[:4], keys["x", "test"]: IMAGES[4:]}
    path = _save(tmp_path, **arrays, **{keys["y", "test"]: LABELS[4:]})
    for split, part in (("train", slice(4)), ("test", slice(4, 6))):
        source = open_data(path, split)
        assert "not read" not in source.found.line()
        np.testing.assert_array_equal(next(source.batches(6)).pixels, IMAGES[part])
        np.testing.assert_array_equal(source.labels, LABELS[part])
    path = _save(tmp_path, x=IMAGES, y=LABELS * 0, labels=LABELS)
    np.testing.assert_array_equal(open_data(path).labels, LABELS)
    assert "not read: 'y'" in open_data(path).found.line()
    with pytest.raises(DataError, match="has 'train_x' and 'x_train', expected one array of images a split"):
        open_data(_save(tmp_path, x_train=IMAGES, train_x=IMAGES))


def test_only_the_split_that_is_asked_for_is_read(tmp_path: Path) -> None:
    path = _save(tmp_path, train_images=np.zeros(3), test_images=IMAGES)
    assert len(open_data(path, "test")) == 6
    with pytest.raises(DataError, match="'train_images': values have shape"):
        open_data(path, "train")


def test_labels_are_optional(tmp_path: Path) -> None:
    source = open_data(_save(tmp_path, images=IMAGES))
    assert source.labels is None
    assert next(source.batches(2)).labels is None


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_get_mean_std_and_layout_only(tmp_path: Path, dtype: type) -> None:
    values = np.random.default_rng(0).normal(size=(6, 4, 5, 2)).astype(dtype)
    settings = Preprocess(mean=(1, 2), std=4, pixel_max=255)
    source = open_data(_save(tmp_path, x=values, labels=LABELS, q=LABELS), preprocess=settings)
    assert source.image_shape == (2, 4, 5)
    assert not source.has_pixels
    (batch,) = source.batches(6)
    assert batch.pixels is None
    assert batch.inputs.dtype == np.float32
    expected = (values.astype(np.float32) - np.array([1, 2], np.float32)) / np.float32(4)
    np.testing.assert_array_equal(batch.inputs, expected.transpose(0, 3, 1, 2))
    with pytest.raises(DataError, match="are float values: augmentation needs uint8 images"):
        next(source.batches(2, augment=Augment()))
    with pytest.raises(DataError, match="'x': images have 2 channels, mean has 3 values"):
        open_data(tmp_path / "data.npz", preprocess=Preprocess(mean=(1, 2, 3)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": IMAGES, "y": LABELS}, "expected 'images' (or 'x') and 'labels', or 'train_images'"),
        ({"pictures": IMAGES, "y": LABELS}, "'test_images', ..., or 'x_train', 'y_train', 'x_test', ...; found"),
        ({"pictures": IMAGES, "y": LABELS}, "found 'pictures', 'y'"),
        ({}, "found no arrays"),
        ({"images": IMAGES, "x": IMAGES / 255}, "has 'images' and 'x', expected one array of images"),
        (
            {"train_images": IMAGES, "test_images": IMAGES, "images": IMAGES},
            "' and 'images', expected one array of ima",
        ),
        ({"images": IMAGES, "labels": LABELS[:5]}, "5 labels for 6 samples"),
        ({"images": IMAGES, "labels": LABELS + 7, "class_names": ["a"] * 9}, "label 2 is 9, expected 0 to 8"),
        ({"images": IMAGES, "labels": LABELS * np.nan}, "label 0 is nan, expected finite"),
        ({"images": IMAGES, "class_names": [1, 2]}, "'class_names' is int64 [2], expected one string per class"),
        ({"images": IMAGES.astype(np.int64)}, "'images': values are int64, expected float values or uint8 pixels"),
        ({"images": IMAGES[0]}, "'images': images have shape [4, 5, 3], expected [N, H, W, C]"),
        ({"images": IMAGES[:0]}, "'images': shape is [0, 4, 5, 3], expected at least one sample"),
        ({"images": np.uint8(3)}, "'images': shape is [], expected [N, ...]"),
        ({"images": np.array(["a", "b"])}, "'images': expected arrays of numbers"),
        ({"x": np.full((2, 2, 2, 1), np.nan)}, "'x': sample 0 has the value nan at [0, 0, 0], expected finite"),
    ],
)
def test_bad_content_is_one_line_that_names_the_file(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = _save(tmp_path, **arrays)
    with pytest.raises(DataError) as caught:
        open_data(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "sprung").touch, ())

    path = _save(tmp_path, images=np.array([Trap()], dtype=object))
    with pytest.raises(DataError, match=r"'images' can't be read: it holds pickled Python objects, which qpipe never"):
        open_data(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_file(tmp_path: Path, share: float) -> None:
    path = _save(tmp_path, images=IMAGES, labels=LABELS)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=rf"^'{path}' is no \.npz file, or a truncated one \(\d+ bytes\)$"):
        open_data(path)


def test_corrupt_member(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, images=IMAGES)
    content = bytearray(path.read_bytes())
    content[250] ^= 255  # within the pixels: the checksum no longer fits
    path.write_bytes(content)
    with pytest.raises(DataError, match="'images' can't be read: Bad CRC-32"):
        open_data(path)


def test_member_that_is_no_array(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images", "hello")
    with pytest.raises(DataError, match=r"'images' is no array: it begins with b'hello', expected b'\\x93NUMPY'$"):
        open_data(path)


def test_member_that_claims_too_much_memory(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000, 1000, 3), }".ljust(117) + "\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    with pytest.raises(DataError, match="'images' can't be read: "):
        open_data(path)


def test_real_cifar10(shared: Path) -> None:
    settings = Preprocess(mean="0.485,0.456,0.406", std="0.229,0.224,0.225")
    source = open_data(shared / "data" / "cifar10.npz", "test", settings)
    check_fits(source, [Input("x", (None, 3, 32, 32), np.dtype(np.float32))])
    assert source.class_names is not None
    assert source.class_names[0] == "airplane"
    assert np.bincount(source.labels).tolist() == [1000] * 10
    pixels = np.concatenate([batch.pixels for batch in source.batches(999)])
    # The test set's published channel means
    np.testing.assert_allclose(pixels.mean((0, 1, 2)) / 255, [0.4942, 0.4851, 0.4504], atol=5e-5)


def test_real_keyword_features(shared: Path) -> None:
    source = open_data(shared / "data" / "kws01_mfcc.npz", "test")
    check_fits(source, [Input("x", ("n", 1, 49, 10), np.dtype(np.float32))])
    assert len(source.class_names or ()) == 12
    with np.load(shared / "data" / "kws01_mfcc.npz") as arrays:
        np.testing.assert_array_equal(next(source.batches(1000)).inputs[:, 0], arrays["x"][..., 0])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_channels_come_first_where_that_alone_fits_the_network(layout: Any, kind: type[Any], tmp_path: Path) -> None:
    preprocess = Preprocess(mean=(0.1, 0.2, 0.3), layout=layout)
    shape = (None, 3, "h", "w") if layout == "NCHW" else (None, "h", "w", 3)
    takes = [Input("x", shape, np.dtype(np.float32))]
    last, first = (
        open_data(_save(tmp_path / name, x=images), "train", preprocess, inputs=takes)
        for name, images in (("last", IMAGES.astype(kind)), ("first", IMAGES.astype(kind).transpose(0, 3, 1, 2)))
        if (tmp_path / name).mkdir() is None
    )
    batches = [next(iter(source.batches(6))).inputs for source in (last, first)]
    np.testing.assert_array_equal(*batches)
    assert "read as [N, C, H, W]" in first.found.line()
    assert "read as" not in last.found.line()


def test_an_array_that_fits_both_ways_has_its_channels_last(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((2, 3, 4, 3), dtype=np.float32)
    takes = [Input("x", (None, 3, "h", "w"), np.dtype(np.float32))]
    source = open_data(_save(tmp_path, x=images), inputs=takes)
    np.testing.assert_array_equal(next(iter(source.batches(2))).inputs, images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_gray_images_need_no_axis_of_channels(kind: type[Any], tmp_path: Path) -> None:
    """As Keras' mnist.npz has them, for a network of one channel; another one is told what was expected."""
    gray = IMAGES[..., 0].astype(kind)
    path = _save(tmp_path, x_train=gray, y_train=LABELS)
    source = open_data(path, inputs=[Input("x", (None, 1, "h", "w"), np.dtype(np.float32))])
    assert "read as [N, H, W]" in source.found.line()
    with_axis = open_data({"x": gray[..., None]}, "train")
    np.testing.assert_array_equal(*(next(each.batches(6)).inputs for each in (source, with_axis)))
    pixels = _save(tmp_path, x_train=IMAGES[..., 0])
    with pytest.raises(DataError, match=r"'x_train': images have shape \[6, 4, 5\], expected \[N, H, W, C\]"):
        open_data(pixels, inputs=[Input("x", (None, 3, "h", "w"), np.dtype(np.float32))])
