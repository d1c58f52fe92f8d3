import numpy as np
import pytest

from qpipe.data import Preprocess, open_data, reading
from qpipe.data.geometry import fit_pixels
from qpipe.data.pixels import ArrayStore, array_store
from qpipe.data.reading import ReaderStore
from qpipe.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 12, 10, 3), dtype=np.uint8)


@pytest.mark.parametrize("settings", [Preprocess(), Preprocess(resize=10)])
def test_images_of_the_right_size_are_not_touched_one_by_one(settings: Preprocess) -> None:
    assert isinstance(array_store(IMAGES, settings, "x"), ArrayStore)


@pytest.mark.parametrize(
    "settings", [Preprocess(resize=8), Preprocess(crop=10), Preprocess(resize=9, crop=8, color="BGR")]
)
@pytest.mark.parametrize("workers", [0, 1])
def test_others_are_resized_and_cropped(settings: Preprocess, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_WORKERS", workers)
    store = array_store(IMAGES, settings, "x")
    assert isinstance(store, ReaderStore)
    (got,) = store.gather([np.arange(5)])
    for image, result in zip(settings.recolor(IMAGES), got, strict=True):
        np.testing.assert_array_equal(result, fit_pixels(image, settings, "x"))


def test_resize_that_crop_takes_back_still_resizes() -> None:
    square = IMAGES[:, :10]
    assert isinstance(array_store(square, Preprocess(resize=20, crop=10), "x"), ReaderStore)


def test_batches_are_in_the_networks_colour_order_and_layout() -> None:
    settings = Preprocess(color="BGR", layout="NHWC", mean=(0.1, 0.2, 0.3))
    source = open_data(IMAGES, preprocess=settings)
    (batch,) = source.batches(5)
    np.testing.assert_array_equal(batch.pixels, IMAGES[..., ::-1])
    np.testing.assert_array_equal(batch.inputs[..., 0], settings.table(0)[IMAGES[..., 2]])
    assert source.image_shape == (12, 10, 3)
    assert source.has_pixels
    assert open_data(IMAGES, preprocess=Preprocess(color="GRAY")).image_shape == (1, 12, 10)


def test_bad_images_name_the_data() -> None:
    with pytest.raises(DataError, match="x: image 0: image is 10x12, smaller than crop 11; set resize as well"):
        array_store(IMAGES[:1], Preprocess(crop=11), "x: image 0")
    with pytest.raises(DataError, match="given from Python: images have 3 channels, std has 2 values"):
        open_data(IMAGES, preprocess=Preprocess(std=(1, 2)))
    with pytest.raises(DataError, match="images have 2 channels, color GRAY expects 3"):
        open_data(IMAGES[..., :2], preprocess=Preprocess(color="GRAY"))
