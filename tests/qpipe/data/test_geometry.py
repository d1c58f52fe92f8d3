import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qpipe.data import Preprocess
from qpipe.data.geometry import fit_image, fit_pixels, output_size, resized_size
from qpipe.errors import DataError


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [
        ((375, 500), 256, (256, 341)),  # torchvision's Resize(256): 341.33 is truncated
        ((500, 375), 256, (341, 256)),
        ((100, 100), 64, (64, 64)),
        ((32, 40), 32, (32, 40)),
        ((32, 40), None, (32, 40)),
    ],
)
def test_short_side_becomes_resize(size: tuple[int, int], resize: int | None, expected: tuple[int, int]) -> None:
    assert resized_size(*size, resize) == expected


def _image(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20))
def test_output_has_the_announced_size(height: int, width: int, resize: int, less: int) -> None:
    settings = Preprocess(resize=resize, crop=max(1, resize - less))
    image = fit_image(Image.fromarray(_image(height, width)), settings, "x")
    assert (image.height, image.width) == output_size(height, width, settings, "x")
    assert image.height == image.width == settings.crop


def test_crop_is_centred() -> None:
    pixels = _image(8, 11)
    cropped = fit_pixels(pixels, Preprocess(crop=4), "x")
    # torchvision: top = round((8 - 4) / 2), left = round((11 - 4) / 2) = round(3.5) = 4
    np.testing.assert_array_equal(cropped, pixels[2:6, 4:8])


def test_resize_is_pillows_bilinear() -> None:
    pixels = _image(20, 30)
    expected = Image.fromarray(pixels).resize((15, 10), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(fit_pixels(pixels, Preprocess(resize=10), "x"), np.asarray(expected))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_any_number_of_channels(channels: int) -> None:
    assert fit_pixels(_image(20, 30, channels), Preprocess(resize=10, crop=8), "x").shape == (8, 8, channels)


def test_image_that_fits_is_untouched() -> None:
    pixels = _image(16, 16)
    np.testing.assert_array_equal(fit_pixels(pixels, Preprocess(resize=16, crop=16), "x"), pixels)


def test_image_smaller_than_the_crop_is_refused() -> None:
    with pytest.raises(DataError, match=r"^a\.png: image is 30x20, smaller than crop 24; set resize as well$"):
        output_size(20, 30, Preprocess(crop=24), "a.png")


def test_an_image_that_becomes_too_large_is_refused() -> None:
    narrow = Image.new("L", (1, 5000))
    with pytest.raises(DataError, match=r"^x: resize 1000 makes it 1000x5000000, more than any network takes$"):
        fit_image(narrow, Preprocess(resize=1000), "x")
